"""Promises of every backbone, whatever its name."""

import copy
import json
import re

import huggingface_hub.constants
import pytest
import torch

from lumen.core.errors import BadSize, WeightsMissing
from lumen.core.plain_text import PlainText
from lumen.core.registry import backbones
from lumen.diffusion import loading

NAMES = [name for name in backbones.names() if name != "transformers"]  # whose models are folders or hub ids
ARGUMENTS = {"timm": {"model": "test_vit"}, "fusion": {"of": ["dino", "clip"]}}  # that a test gives
PUBLISHED = [name for name in NAMES if getattr(backbones.arguments(name).get("weights"), "default", 0) == "published"]
SIZES = [(112, 224), (224, 112), (112, 112)]  # multiples of 14 and of 16


def build(name, **arguments):
    untrained = {"size": "tiny", "weights": "none"}
    own = {key: value for key, value in untrained.items() if key in backbones.arguments(name)}
    return backbones.build(name, **{**own, **ARGUMENTS.get(name, {}), **arguments})


def random_image(*sides, count=1):
    return torch.rand(count, 3, *sides, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.mark.parametrize("sides", SIZES)
@pytest.mark.parametrize("name", NAMES)
def test_backbone_has_the_channels_and_stride_that_it_declares(name, sides):
    backbone = build(name)
    maps = backbone.feature_maps(random_image(*sides, count=2))
    assert tuple(m.shape[1] for m in maps) == backbone.map_channels
    cells = [side // backbone.stride for side in sides]
    features = backbone.features(random_image(*sides, count=2))
    assert list(features.shape) == [2, backbone.channels, *cells]
    assert features.isfinite().all() and features.std() > 0


@pytest.mark.parametrize("name", NAMES)
def test_backbone_stays_frozen(name):
    backbone = build(name).train()
    assert not any(parameter.requires_grad for parameter in backbone.parameters())
    assert not any(module.training for module in backbone.modules())
    assert not backbone.features(random_image(112, 112).requires_grad_()).requires_grad


@pytest.mark.parametrize("name", NAMES)
def test_backbone_build_is_deterministic_and_leaves_the_random_state(name):
    loading._load.cache_clear()  # otherwise the second build of sd would return the first
    first = build(name)
    torch.rand(1)
    state = torch.get_rng_state()
    loading._load.cache_clear()
    second = build(name)
    image = random_image(112, 112)
    assert torch.equal(first.features(image), second.features(image))
    assert first.identity == second.identity
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("name", NAMES)
def test_features_do_not_depend_on_the_batch(name):
    backbone, images = build(name), random_image(112, 112, count=3)
    torch.testing.assert_close(backbone.features(images)[1:2], backbone.features(images[1:2]), atol=1e-5, rtol=1e-5)


def other_value(argument):
    """Return a value that an argument accepts and that differs from its default."""
    if argument.choices:
        values = (argument.read(PlainText(choice)) for choice in argument.choices)
        return next(value for value in values if value != argument.default)
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
def test_identity_holds_every_argument_that_changes_the_features(name):
    identity = build(name).identity
    assert json.loads(json.dumps(identity)) == identity
    for key, argument in backbones.arguments(name).items():
        if key not in ("size", "weights", "revision", "fit") and argument.default is not None:
            assert build(name, **{key: other_value(argument)}).identity != identity, key


@pytest.mark.parametrize("name", [name for name in NAMES if "weights" in backbones.arguments(name)])
def test_identity_holds_the_weights(name):
    backbone = build(name)
    assert re.fullmatch("[0-9a-f]{16}", backbone.identity["weights"])
    changed = copy.deepcopy(build(name))  # other backbones may share the network
    next(p for p in changed.parameters() if p.ndim > 1).data.view(-1)[0] += 1e-3
    assert {**changed.identity, "weights": ""} == {**backbone.identity, "weights": ""}
    assert changed.identity["weights"] != backbone.identity["weights"]


@pytest.mark.parametrize(
    ("name", "weights"),
    [
        ("clip", "e6fe95741df1fdd8"),
        ("dino", "206d423ab7a44c31"),
        ("dinov2", "93ff97b7402d50dc"),
        ("sd", "b0b7599c49d9991b"),
    ],
)
def test_identity_does_not_change_with_versions_of_lumen(name, weights):
    """Renaming an attribute that holds a network or a buffer would make finished runs and caches useless."""
    assert backbones.build(name, weights="scenes").identity["weights"] == weights


@pytest.mark.parametrize("name", NAMES)
def test_backbone_names_the_nearest_sizes_that_it_takes(name):
    backbone = build(name, fit=False)
    member = "|".join(ARGUMENTS.get(name, {}).get("of", [name]))
    with pytest.raises(BadSize, match=f"({member}) .* 113 x 112; .* 112 x 112") as error:
        backbone.features(random_image(113, 112))
    for sides in re.findall(r"(\d+) x (\d+)", str(error.value))[1:]:
        backbone.features(random_image(*map(int, sides)))


@pytest.mark.parametrize("name", NAMES)
def test_backbone_with_fit_takes_any_size(name):
    backbone = build(name, fit=True)
    for sides in [(113, 112), (5, 40)]:
        assert backbone.features(random_image(*sides)).isfinite().all()


@pytest.mark.parametrize("name", PUBLISHED)
def test_missing_weights_are_an_error_that_says_how_to_get_them(name, tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    for arguments, message in [
        ({}, "run 'hf download [^ ]+/[^ ]+ --local-dir DIR', then give weights=DIR"),
        ({"revision": "abc"}, "run 'hf download [^ ]+/[^ ]+ --revision abc --local-dir DIR'"),
        ({"weights": "some/where"}, "run 'hf download some/where --local-dir DIR'"),
        ({"size": "tiny"}, "the tiny [a-z0-9]+ .*weights=none"),
        ({"weights": "./nowhere"}, f"{name}.* './nowhere'.* folder"),
        ({"weights": str(tmp_path)}, f"{name}.* '{tmp_path}'"),
    ]:
        if arguments.keys() <= backbones.arguments(name).keys():
            with pytest.raises(WeightsMissing, match=message):
                backbones.build(name, **ARGUMENTS.get(name, {}), **arguments)
