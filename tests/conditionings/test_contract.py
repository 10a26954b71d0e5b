"""Promises of every conditioning."""

from pathlib import Path

import huggingface_hub.constants
import numpy as np
import pytest
import torch
from PIL import Image

from lumen.__main__ import main
from lumen.config.experiment import load
from lumen.core.errors import BadCheckpoint, BasisMismatch, WeightsMissing
from lumen.core.interfaces import Batch
from lumen.core.registry import conditionings
from lumen.features.pretrained import SCENES_WEIGHTS
from lumen.runs.build import build_task
from lumen.runs.data import build_data

NAMES = conditionings.names()
TINY = ["size=32", "diffusion.weights=none", "batch=2", "data.images=4", "validation=2", "steps=1", "warmup=1"]
TINY += ["metrics=[]", "sampling.steps=1", "sampling.images=1", "wandb=disabled"]


def select_image(batch, i):
    return Batch(batch.image[i : i + 1], [batch.caption[i]], [batch.id[i]], batch.mask[i : i + 1])


@pytest.mark.parametrize("name", NAMES)
def test_layout_has_its_declared_channels_and_an_image(name, scenes, fitted):
    conditioning = fitted(name)
    layout = conditioning(scenes)
    assert layout.dtype == torch.float32 and layout.shape[:2] == (6, conditioning.channels)
    assert layout.isfinite().all() and not layout.requires_grad
    image = conditioning.visualize(layout)
    assert image.shape == (6, 3, *layout.shape[2:]) and image.min() >= 0 and image.max() <= 1
    if conditioning.hint == "image":
        assert layout.shape[2:] == scenes.image.shape[2:] and layout.min() >= 0 and layout.max() <= 1
    assert name == "blank" or not torch.equal(layout[0], layout[1])


@pytest.mark.parametrize("name", NAMES)
def test_layout_of_the_cached_code_is_the_layout(name, scenes, fitted):
    conditioning = fitted(name)
    assert torch.equal(conditioning.to_layout(conditioning.encode(scenes)), conditioning(scenes))


@pytest.mark.parametrize("name", NAMES)
def test_layout_is_deterministic_and_independent_of_its_batch(name, scenes, build, fitted):
    layout, rebuilt = fitted(name)(scenes), build(name)
    rebuilt.load_state_dict(fitted(name).state_dict())
    assert torch.equal(rebuilt(scenes), layout)
    for i in (0, 5):
        single = fitted(name)(select_image(scenes, i))
        torch.testing.assert_close(single, layout[i : i + 1], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_layout_is_computed_in_fp32_under_mixed_precision(name, scenes, fitted):
    with torch.autocast("cpu", torch.bfloat16):
        mixed = fitted(name)(scenes)
    assert torch.equal(mixed, fitted(name)(scenes))


@pytest.mark.parametrize("name", NAMES)
def test_frozen_networks_are_neither_trained_nor_saved_but_follow_the_conditioning(name, build):
    conditioning = build(name).train()
    assert not list(conditioning.parameters()) and not {*conditioning.children()} & {*conditioning.networks.values()}
    for network in conditioning.networks.values():
        assert not any(m.training for m in network.modules())
        assert not any(p.requires_grad for p in network.parameters())
    conditioning.double()
    assert all(p.dtype == torch.float64 for n in conditioning.networks.values() for p in n.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_checkpoint_is_refused_by_a_conditioning_with_other_networks(name, build, fitted):
    state, other = fitted(name).state_dict(), build(name)
    for network in other.networks.values():
        next(p for p in network.parameters() if p.ndim > 1).data.view(-1)[0] += 1e-3
        with pytest.raises((BadCheckpoint, BasisMismatch)):
            other.load_state_dict(state)
    assert other.networks or other.load_state_dict(state)


def test_checkpoint_is_refused_by_another_conditioning(build, fitted):
    with pytest.raises(BadCheckpoint, match="hed .*None"):
        build("canny").load_state_dict(fitted("hed").state_dict())


@pytest.mark.parametrize("name", NAMES)
def test_hint_resolution_is_the_conditionings_unless_configured(name, fitted):
    flags = [f"conditioning={name}", *TINY]
    for value, hint in (("auto", fitted(name).hint), ("latent", "latent"), ("image", "image")):
        config = load("scenes", [*flags, f"diffusion.hint={value}"])
        assert build_task(config, build_data(config)).generator.hint == hint
    assert (fitted(name).hint == "latent") == (name in ("neural_layout", "proxy"))


@pytest.fixture(scope="module")
def photo(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("photo") / "photo.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8)).save(path)
    return path


@pytest.mark.parametrize("name", NAMES)
def test_layout_command_plots_every_layout_that_a_photo_has(name, photo, workdir, capsys):
    command = ["layout", str(photo), str(photo), "base=scenes", f"conditioning={name}"]
    if "classes" not in conditionings.needs(name):
        assert main(command) == 0
        assert Image.open("layout.png").size[1] > 300
    else:
        assert main(command) == 2
        assert "'photo' is a photo without labels" in capsys.readouterr().err and not list(workdir.iterdir())


def test_sample_command_refuses_a_photo_for_a_run_on_label_maps(photo, workdir, capsys):
    assert main(["train", "scenes", "conditioning=segmap", *TINY]) == 0
    run = next(workdir.glob("runs/scenes/*/seed0"))
    capsys.readouterr()
    assert main(["sample", str(run), str(photo), "a house"]) == 2
    message = capsys.readouterr().err.strip()
    assert message.startswith("lumen: 'photo' is a photo without labels") and "\n" not in message


@pytest.mark.parametrize(
    ("name", "weights", "message"),
    [
        ("hed", "lllyasviel/Annotators", "run 'hf download lllyasviel/Annotators ControlNetHED.pth --local-dir DIR'"),
        ("midas", "Intel/dpt-hybrid-midas", "run 'hf download Intel/dpt-hybrid-midas --local-dir DIR'"),
        ("hed", "./nowhere", "'./nowhere'.* folder"),
        ("midas", "./nowhere", "'./nowhere'.* folder"),
        ("hed", "none", "untrained hed .*ControlNetHED.pth"),
        ("midas", "none", "untrained midas"),
        ("midas", str(SCENES_WEIGHTS / "segmenter"), "DepthEstimation"),
        ("hed", str(SCENES_WEIGHTS / "midas"), "config.json and model.safetensors .*HED.save"),
    ],
)
def test_missing_weights_are_an_error(name, weights, message, tmp_path, monkeypatch, build):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    with pytest.raises(WeightsMissing, match=message):
        build(name, weights=weights)


@pytest.mark.parametrize(("name", "weights"), [("hed", "dfb976a2b08d34b3"), ("midas", "ca16fb11abd30f0e")])
def test_identity_does_not_change_with_versions_of_lumen(name, weights, build):
    """Renaming an attribute that holds a network or a buffer would make finished runs and caches useless."""
    assert build(name).identity == {name: weights}


def test_loading_weights_leaves_the_random_state(build):
    state = torch.get_rng_state()
    for name in ("hed", "midas"):
        build(name)
    assert torch.equal(state, torch.get_rng_state())
