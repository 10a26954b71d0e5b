"""LPIPS against its authors' package, trunk by trunk."""

import lpips as published
import pytest
import torch
from torchmetrics.functional.image.lpips import _LPIPS

from lumen.core.interfaces import Batch
from lumen.core.registry import metrics
from lumen.evaluation import perceptual


@pytest.mark.parametrize("trunk", perceptual.TRUNKS)
def test_lpips_equals_the_published_package(trunk, monkeypatch):
    """Both have the published linear layers on one untrained trunk, whose weights would have to be fetched."""
    reference = published.LPIPS(net=trunk, pnet_rand=True, verbose=False)
    network = _LPIPS(pretrained=True, net=trunk, pnet_rand=True)
    trunk_weights = zip(network.net.state_dict(), reference.net.state_dict().values(), strict=True)
    network.net.load_state_dict(dict(trunk_weights))
    monkeypatch.setattr(perceptual, "_load_published", lambda _: network)
    metric = metrics.build("lpips", trunk=trunk)
    a, b, c = torch.rand(3, 2, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        expected = (reference(a, b) + reference(a, c) + reference(b, c)).flatten() / 3
        distances = metric.per_image(Batch(a, ["", ""], ["x", "y"]), torch.stack([a, b, c], 1))
    assert torch.allclose(distances, expected, rtol=1e-5, atol=1e-6)
    assert metric.key == "lpips" and expected.min() > 1e-3


def test_lpips_of_another_trunk_has_its_own_key():
    assert metrics.build("lpips", trunk="scenes").key == "lpips-scenes"
