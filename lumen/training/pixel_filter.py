"""Filter of synthetic labels (FreeMask, Yang et al. 2023, arXiv:2310.15160): pixels that contradict their label."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from lightning.pytorch import LightningDataModule
from torch import Tensor, nn
from torch.nn import functional as F

from lumen.core.interfaces import IGNORE
from lumen.core.tensor_hashing import fingerprint

BATCH_SIZE = 16  # images whose losses are measured together


class PixelFilter(nn.Module):
    """Generated pixels whose loss, under a network that learnt from real images, is too large for their class.

    Args:
        network: Function of images in [-1, 1] that returns the logits of every pixel, as a module.
        classes: Number of classes.
        tolerance: Largest loss of a pixel, as a multiple of the mean loss of its class on real training images.

    Attributes:
        limits: Largest loss by class; None until `fit`. A class that no real image has is never filtered.
    """

    def __init__(self, network: nn.Module, classes: int, tolerance: float):
        super().__init__()
        self.network, self.classes, self.tolerance = network, classes, tolerance
        self.limits: Tensor | None = None

    @torch.no_grad()
    def fit(self, data: LightningDataModule, cached: Callable[..., Tensor] | None = None) -> None:
        """Measure the mean loss of each class on all training images.

        Args:
            cached: Function of (key, number of images, compute) that returns cached statistics, or computes them.
        """
        if self.limits is not None:
            return
        images = len(data.source.train_records())

        def compute() -> Float[Tensor, " c"]:
            sums = torch.zeros(2, self.classes, dtype=torch.float64)
            for batch in data.views_dataloader([(image, 0) for image in range(images)], BATCH_SIZE):
                batch = batch.to(self._device)
                sums += self._sums(self.losses(batch.image, batch.mask), batch.mask).cpu()
            return sums[0] / sums[1]

        key: dict[str, Any] = {"mean loss of": fingerprint(self.network)}
        means = cached(key, images, compute) if cached else compute()
        self.limits = (self.tolerance * means).nan_to_num(nan=float("inf"))

    @torch.no_grad()
    def losses(self, image: Float[Tensor, "b 3 H W"], mask: Int[Tensor, "b H W"]) -> Float[Tensor, "b H W"]:
        """Return the cross-entropy of every pixel."""
        return F.cross_entropy(self.network(image), mask, ignore_index=IGNORE, reduction="none")

    @torch.no_grad()
    def forward(self, image: Float[Tensor, "b 3 H W"], mask: Int[Tensor, "b H W"]) -> Int[Tensor, "b H W"]:
        """Return label maps in which pixels with too large a loss have no class."""
        limits = F.pad(self.limits, (0, IGNORE + 1 - self.classes), value=float("inf")).to(mask.device)
        return torch.where(self.losses(image, mask) > limits[mask], IGNORE, mask)

    def _sums(self, losses: Float[Tensor, "b H W"], mask: Int[Tensor, "b H W"]) -> Float[Tensor, "2 c"]:
        """Return the sum of the losses of each class, and its pixels."""
        is_labelled = mask != IGNORE
        labels, values = mask[is_labelled], losses[is_labelled].double()
        zeros = torch.zeros(self.classes, dtype=torch.float64, device=mask.device)
        return torch.stack([zeros.scatter_add(0, labels, x) for x in (values, torch.ones_like(values))])

    @property
    def _device(self) -> torch.device:
        return next(self.network.parameters()).device
