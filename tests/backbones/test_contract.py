"""Promises that every backbone keeps, whatever its name."""

import ast
import copy
import json
import re

import huggingface_hub.constants
import pytest
import torch

from lumen.core.errors import BadSize, WeightsMissing
from lumen.core.registry import backbones
from lumen.diffusion import loading

NAMES = backbones.names()
SIZES = [(112, 224), (224, 112), (112, 112)]  # multiples of 14 and of 16


def build(name, **arguments):
    return backbones.build(name, **{"size": "tiny", "weights": "none", **arguments})


def picture(*sides, count=1):
    return torch.rand(count, 3, *sides, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.mark.parametrize("sides", SIZES)
@pytest.mark.parametrize("name", NAMES)
def test_features_have_the_channels_and_stride_they_say(name, sides):
    backbone = build(name)
    maps = backbone.feature_maps(picture(*sides, count=2))
    assert tuple(each.shape[1] for each in maps) == backbone.map_channels
    cells = [side // backbone.stride for side in sides]
    features = backbone.features(picture(*sides, count=2))
    assert list(features.shape) == [2, backbone.channels, *cells]
    assert features.isfinite().all() and features.std() > 0


@pytest.mark.parametrize("name", NAMES)
def test_a_backbone_is_frozen_and_stays_so(name):
    backbone = build(name).train()
    assert not any(parameter.requires_grad for parameter in backbone.parameters())
    assert not any(module.training for module in backbone.modules())
    assert not backbone.features(picture(112, 112).requires_grad_()).requires_grad


@pytest.mark.parametrize("name", NAMES)
def test_two_builds_are_equal_and_draw_nothing_from_the_run(name):
    loading._load.cache_clear()  # or the second build of sd would be the first
    first = build(name)
    torch.rand(1)
    state = torch.get_rng_state()
    loading._load.cache_clear()
    second = build(name)
    image = picture(112, 112)
    assert torch.equal(first.features(image), second.features(image))
    assert first.identity == second.identity
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("name", NAMES)
def test_an_image_does_not_depend_on_its_batch(name):
    backbone, images = build(name), picture(112, 112, count=3)
    torch.testing.assert_close(backbone.features(images)[1:2], backbone.features(images[1:2]), atol=1e-5, rtol=1e-5)


def another(argument):
    """A value that the argument takes and that is not its default."""
    if argument.kind.startswith("Literal"):
        choices = ast.literal_eval(argument.kind.removeprefix("Literal"))
        return next(choice for choice in choices if choice != argument.default)
    match argument.default:
        case bool():
            return not argument.default
        case int():
            return argument.default + 1
        case str():
            return argument.default + "x"
        case list() | tuple():
            return list(argument.default[:-1])


@pytest.mark.parametrize("name", NAMES)
def test_identity_names_every_argument_that_changes_the_features(name):
    identity = build(name).identity
    assert json.loads(json.dumps(identity)) == identity
    for key, argument in backbones.arguments(name).items():
        if key not in ("size", "weights", "revision", "fit"):
            assert build(name, **{key: another(argument)}).identity != identity, key


@pytest.mark.parametrize("name", NAMES)
def test_identity_holds_the_weights(name):
    backbone = build(name)
    assert re.fullmatch("[0-9a-f]{16}", backbone.identity["weights"])
    nudged = copy.deepcopy(build(name))  # a network that others share stays unharmed
    next(p for p in nudged.parameters() if p.ndim > 1).data.view(-1)[0] += 1e-3
    assert {**nudged.identity, "weights": ""} == {**backbone.identity, "weights": ""}
    assert nudged.identity["weights"] != backbone.identity["weights"]


@pytest.mark.parametrize("name", NAMES)
def test_a_size_it_cannot_take_is_an_error_that_names_those_it_can(name):
    backbone = build(name, fit=False)
    with pytest.raises(BadSize, match=f"{name} takes .* not 113 x 112; the nearest are 112 x 112") as caught:
        backbone.features(picture(113, 112))
    below, above = re.findall(r"(\d+) x (\d+)", str(caught.value))[1:]
    for sides in (below, above):
        backbone.features(picture(*map(int, sides)))


@pytest.mark.parametrize("name", NAMES)
def test_fit_takes_any_size(name):
    backbone = build(name, fit=True)
    for sides in [(113, 112), (5, 40)]:
        assert backbone.features(picture(*sides)).isfinite().all()


@pytest.mark.parametrize("name", NAMES)
def test_weights_that_are_nowhere_are_a_sentence(name, tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    for arguments, sentence in [
        ({}, "run 'hf download [^ ]+/[^ ]+ --local-dir DIR', then give weights=DIR"),
        ({"revision": "abc"}, "run 'hf download [^ ]+/[^ ]+ --revision abc --local-dir DIR'"),
        ({"weights": "some/where"}, "run 'hf download some/where --local-dir DIR'"),
        ({"size": "tiny"}, f"the tiny {name} has no published weights"),
        ({"weights": "./nowhere"}, "which is not a folder"),
        ({"weights": str(tmp_path)}, f"the weights of {name} cannot be read from '{tmp_path}'"),
    ]:
        with pytest.raises(WeightsMissing, match=sentence):
            backbones.build(name, **arguments)
