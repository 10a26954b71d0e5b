"""Backbones without training: colours of pixels, and random weights. And fusions of backbones."""

import pytest
import torch

from lumen.core.errors import BadConfig, UnknownName
from lumen.core.registry import backbones


@pytest.fixture
def image():
    return torch.rand(2, 3, 48, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_pixels_are_mean_colours(image):
    colour = backbones.build("pixels", cell=16, parts=1).features(image)
    assert colour.shape == (2, 3, 3, 4)
    torch.testing.assert_close(colour[1, :, 2, 1], image[1, :, 32:48, 16:32].mean((1, 2)))
    parts = backbones.build("pixels").features(image)
    assert parts.shape == (2, 48, 6, 8)
    cell = image[0, :, 8:16, 24:32].unflatten(1, (4, 2)).unflatten(3, (4, 2)).mean((2, 4))  # c y x
    torch.testing.assert_close(parts[0, :, 1, 3], cell.flatten())


def test_untrained_network_follows_its_seed_and_has_the_architecture_of_scenes(image):
    first, second = (backbones.build("untrained", size="tiny", seed=seed).features(image) for seed in (0, 1))
    assert not torch.equal(first, second)
    random, trained = backbones.build("untrained", weights="scenes"), backbones.build("dino", weights="scenes")
    shapes = [{key: value.shape for key, value in b.net.state_dict().items()} for b in (random, trained)]
    assert shapes[0] == shapes[1] and random.identity["weights"] != trained.identity["weights"]


@torch.no_grad()
def test_fusion_is_its_members_normalised_and_weighted(image):
    image = image[..., :32, :32]
    members = {name: backbones.build(name, size="tiny", weights="none") for name in ("dino", "sd")}
    fusion = backbones.build("fusion", of=["dino", "sd"], size="tiny", weights="none", shares=[0.25, 0.75])
    coarse, fine = fusion.feature_maps(image)
    expected = {name: member.features(image) for name, member in members.items()}
    strides = {name: member.stride for name, member in members.items()}
    order = sorted(members, key=lambda name: -strides[name])
    shares = {"dino": 0.25, "sd": 0.75}
    for name, result in zip(order, (coarse, fine), strict=True):
        unit = expected[name] / expected[name].norm(dim=1, keepdim=True)
        torch.testing.assert_close(result, shares[name] * unit)
    assert fusion.features(image).shape[1] == fusion.channels == sum(m.channels for m in members.values())
    other = backbones.build("fusion", of=["dino", "sd"], size="tiny", weights="none")
    assert other.identity != fusion.identity and "0.5" in other.identity["shares"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"of": []}, "0 names"),
        ({"shares": [1.0]}, "2 names, backbone.shares 1 numbers"),
        ({"weights": ["none", "none", "none"]}, "weights 3 sources"),
        ({"of": ["dino", "timm"]}, "timm needs model="),
        ({"of": ["dino", "clip"], "size": "v1"}, "backbone.size of dino in a fusion must be"),
    ],
)
def test_fusion_refuses_members_that_do_not_fit(arguments, message):
    with pytest.raises(BadConfig, match=message):
        backbones.build("fusion", **{"weights": "none", "size": "tiny", **arguments})
    with pytest.raises(UnknownName, match="did you mean 'dino'"):
        backbones.build("fusion", of=["din"])
