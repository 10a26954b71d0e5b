"""Fit of a head that labels generated images, to a few labelled ones."""

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from lumen.core.interfaces import IGNORE

STEPS, RATE, WEIGHT_DECAY = 300, 1e-2, 1e-3


def class_shares(
    mask: Int[Tensor, "b H W"], classes: int, grid: tuple[int, int]
) -> tuple[Float[Tensor, "b c h w"], Float[Tensor, "b h w"]]:
    """Return the share of each class in the labelled pixels of each cell, and the share of labelled pixels."""
    is_class = (mask[:, None] == torch.arange(classes, device=mask.device)[:, None, None]).float()
    shares = F.adaptive_avg_pool2d(is_class, grid)
    labelled = F.adaptive_avg_pool2d((mask[:, None] != IGNORE).float(), grid)
    return shares / labelled.clamp(min=1e-6), labelled[:, 0]


def fit_labeller(
    labeller: nn.Module, batches: Iterable[tuple[Float[Tensor, "b c h w"], Int[Tensor, "b H W"]]], classes: int
) -> None:
    """Fit a head to dense features with their label maps, by AdamW on all cells at every step.

    The cross-entropy is against the share of each class in a cell, so that small things count for what they cover.
    """
    parts = [(features, *class_shares(mask, classes, tuple(features.shape[-2:]))) for features, mask in batches]
    features, shares, weights = (torch.cat(column) for column in zip(*parts, strict=True))
    labeller.requires_grad_(True)
    optimizer = torch.optim.AdamW(labeller.parameters(), lr=RATE, weight_decay=WEIGHT_DECAY)
    with torch.enable_grad():
        for _ in range(STEPS):
            optimizer.zero_grad()
            loss = F.cross_entropy(labeller(features), shares, reduction="none")
            ((loss * weights).sum() / weights.sum().clamp(min=1)).backward()
            optimizer.step()
    labeller.requires_grad_(False)
