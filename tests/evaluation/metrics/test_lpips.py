"""LPIPS against its authors' package, trunk by trunk."""

import lpips as published
import pytest
import torch
from torchmetrics.functional.image.lpips import _LPIPS

from lumen.core.interfaces import Batch
from lumen.core.registry import metrics
from lumen.evaluation.metrics import lpips


@pytest.mark.parametrize("trunk", lpips.TRUNKS)
def test_distances_are_those_of_the_published_package(trunk, monkeypatch):
    """The published layers of both on one untrained trunk: its weights cannot be had without a network."""
    theirs = published.LPIPS(net=trunk, pnet_rand=True, verbose=False)
    ours = _LPIPS(pretrained=True, net=trunk, pnet_rand=True)
    ours.net.load_state_dict(dict(zip(ours.net.state_dict(), theirs.net.state_dict().values(), strict=True)))
    monkeypatch.setattr(lpips, "_published", lambda _: ours)
    metric = metrics.build("lpips", trunk=trunk)
    a, b, c = torch.rand(3, 2, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    batch = Batch(a, ["", ""], ["x", "y"])
    with torch.no_grad():
        expected = (theirs(a, b) + theirs(a, c) + theirs(b, c)).flatten() / 3
        found = metric.per_image(batch, torch.stack([a, b, c], 1))
    assert torch.allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert metric.key == "lpips" and expected.min() > 1e-3


def test_another_trunk_is_another_measure():
    assert metrics.build("lpips", trunk="scenes").key == "lpips-scenes"
