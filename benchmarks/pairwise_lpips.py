"""LPIPS diversity of ten samples of each of two images at 128 px: 45 distances each."""

import copy
from itertools import combinations
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torchmetrics.functional.image.lpips import _LPIPS

from lumen.core.interfaces import Batch
from lumen.evaluation import perceptual
from lumen.evaluation.metrics import lpips

PEER = "torchmetrics' LPIPS network on every pair"
LIBRARIES = ("torchmetrics", "torch")
ROUNDS = 5
TOLERANCE = 1e-5
TARGET_SPEEDUP = 8
MIN_FLOP_RATIO = 8.0


def inputs(small: bool = False) -> tuple:
    """Return the network, the metric and random images. The trunk is untrained: its weights would be a download."""
    torch.manual_seed(0)
    network = _LPIPS(pretrained=True, net="alex", pnet_rand=True).eval().requires_grad_(False)
    with patch.object(perceptual, "_load_published", lambda _: copy.deepcopy(network)):
        metric = lpips.Diversity("alex")
    generated = torch.rand(2, 10, 3, 64 if small else 128, 64 if small else 128) * 2 - 1
    return network, metric, generated


def peer(network: nn.Module, metric: lpips.Diversity, generated: Tensor) -> Tensor:
    """Return the mean distance by running the network on every pair."""
    distances = [network(a, b).flatten() for a, b in combinations(generated.unbind(1), 2)]
    return torch.stack(distances).mean(0)


def ours(network: nn.Module, metric: lpips.Diversity, generated: Tensor) -> Tensor:
    """Return the mean distance by running the network once per image."""
    return metric.per_image(Batch(generated[:, 0], ["", ""], ["a", "b"]), generated)
