"""Promises that every conditioning keeps, and each against what it is a copy of."""

import os
import pickle
from functools import cache
from pathlib import Path

import cv2
import huggingface_hub.constants
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file
from transformers import pipeline as transformers_pipeline

from lumen.__main__ import main
from lumen.config.experiment import load
from lumen.core.errors import BadCheckpoint, BasisMismatch, WeightsMissing
from lumen.core.interfaces import IGNORE, Batch
from lumen.core.registry import conditionings, datamodules
from lumen.data.datamodule import Loading
from lumen.features.hed import CONTROLNET_FILE, HED, load_hed
from lumen.features.pretrained import SCENES_WEIGHTS
from lumen.runs.build import build_conditioning, build_data, build_module
from lumen.scenes.world import CLASSES

NAMES = conditionings.names()
TINY = ["size=32", "diffusion.weights=none", "batch=2", "data.images=4", "validation=2", "steps=1", "warmup=1"]
TINY += ["metrics=[]", "sampling.steps=1", "sampling.images=1", "wandb=disabled"]


@pytest.fixture(scope="module")
def scenes() -> Batch:
    """Six held-out scenes, with a corner of one unlabelled."""
    data = datamodules.build("scenes", loading=Loading(size=64, batch=6, measured=6))
    batch = next(iter(data.test_dataloader()))
    batch.mask[0, :9, :7] = IGNORE
    return batch


def build(name, **arguments):
    """The conditioning as `scenes` has it, or with other arguments."""
    config = load("scenes", [f"conditioning={name}", *(f"conditioning.{k}={v}" for k, v in arguments.items())])
    return build_conditioning(config, build_data(config))


@cache
def fitted(name):
    """The same, ready for use and shared: no test may change it."""
    conditioning = build(name)
    if not conditioning.fitted:
        data = datamodules.build("scenes", loading=Loading(size=64, batch=6))
        conditioning.fit(data.sample_dataloader(12), 12, 0, "data")
    return conditioning


def alone(batch, i):
    return Batch(batch.image[i : i + 1], [batch.caption[i]], [batch.id[i]], batch.mask[i : i + 1])


@pytest.mark.parametrize("name", NAMES)
def test_a_layout_has_the_channels_it_says_and_can_be_shown(name, scenes):
    conditioning = fitted(name)
    layout = conditioning(scenes)
    assert layout.dtype == torch.float32 and layout.shape[:2] == (6, conditioning.channels)
    assert layout.isfinite().all() and not layout.requires_grad
    shown = conditioning.visualize(layout)
    assert shown.shape == (6, 3, *layout.shape[2:]) and shown.min() >= 0 and shown.max() <= 1
    if conditioning.hint == "image":
        assert layout.shape[2:] == scenes.image.shape[2:] and layout.min() >= 0 and layout.max() <= 1
    assert name == "blank" or not torch.equal(layout[0], layout[1])


@pytest.mark.parametrize("name", NAMES)
def test_a_layout_is_the_same_bits_in_every_build_and_alone_the_same_layout(name, scenes):
    layout, again = fitted(name)(scenes), build(name)
    again.load_state_dict(fitted(name).state_dict())
    assert torch.equal(again(scenes), layout)
    for i in (0, 5):
        torch.testing.assert_close(fitted(name)(alone(scenes, i)), layout[i : i + 1], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_a_layout_is_computed_in_fp32_under_mixed_precision(name, scenes):
    with torch.autocast("cpu", torch.bfloat16):
        mixed = fitted(name)(scenes)
    assert torch.equal(mixed, fitted(name)(scenes))


@pytest.mark.parametrize("name", NAMES)
def test_frozen_networks_are_neither_trained_nor_saved_and_go_where_the_layout_is_wanted(name):
    conditioning = build(name).train()
    assert not list(conditioning.parameters()) and not list(conditioning.children())
    for network in conditioning.networks.values():
        assert not any(m.training for m in network.modules())
        assert not any(p.requires_grad for p in network.parameters())
    conditioning.double()
    assert all(p.dtype == torch.float64 for n in conditioning.networks.values() for p in n.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_a_checkpoint_serves_the_same_frozen_networks_only(name):
    saved, other = fitted(name).state_dict(), build(name)
    for network in other.networks.values():
        next(p for p in network.parameters() if p.ndim > 1).data.view(-1)[0] += 1e-3
        with pytest.raises((BadCheckpoint, BasisMismatch)):
            other.load_state_dict(saved)
    assert other.networks or other.load_state_dict(saved)


def test_a_checkpoint_serves_its_own_conditioning_and_classes_only():
    saved = fitted("hed").state_dict()
    with pytest.raises(BadCheckpoint, match="trained on layouts of another hed .*, here None"):
        build("canny").load_state_dict(saved)
    painted = build("segmap", form="colours").state_dict()
    with pytest.raises(BadCheckpoint, match="trained on layouts of another label set"):
        conditionings.build("segmap", form="colours", classes=("sky", "sea")).load_state_dict(painted)


@pytest.mark.parametrize("name", NAMES)
def test_the_layout_enters_where_the_conditioning_says_unless_the_config_does(name):
    flags = [f"conditioning={name}", *TINY]
    for chosen, hint in (("auto", fitted(name).hint), ("latent", "latent"), ("image", "image")):
        config = load("scenes", [*flags, f"diffusion.hint={chosen}"])
        assert build_module(config, build_data(config)).diffusion.hint == hint
    assert (fitted(name).hint == "latent") == (name == "neural_layout")


@pytest.fixture(scope="module")
def photo(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("photo") / "photo.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8)).save(path)
    return path


@pytest.mark.parametrize("name", NAMES)
def test_the_layout_of_a_photo_is_drawn_where_a_photo_has_one(name, photo, place, capsys):
    command = ["layout", str(photo), str(photo), "base=scenes", f"conditioning={name}"]
    if "classes" not in conditionings.needs(name):
        assert main(command) == 0
        assert Image.open("layout.png").size[1] > 300
    else:
        assert main(command) == 2
        assert "'photo' is a photo without labels" in capsys.readouterr().err and not list(place.iterdir())


def test_a_run_of_label_maps_cannot_sample_a_photo(photo, place, capsys):
    assert main(["train", "scenes", "conditioning=segmap", *TINY]) == 0
    run = next(place.glob("runs/scenes/*/seed0"))
    capsys.readouterr()
    assert main(["sample", str(run), str(photo), "a house"]) == 2
    said = capsys.readouterr().err.strip()
    assert said.startswith("lumen: 'photo' is a photo without labels") and "\n" not in said


# --- canny


def bytes_of(scenes):
    return np.rint((scenes.image.numpy().transpose(0, 2, 3, 1) + 1) * 127.5).astype(np.uint8)


@pytest.mark.parametrize("thresholds", [(100, 200), (20, 60)])
def test_canny_is_opencvs_on_the_bytes_of_the_image(thresholds, scenes):
    layout = build("canny", low=thresholds[0], high=thresholds[1])(scenes)
    for i, image in enumerate(bytes_of(scenes)):
        assert np.array_equal(layout[i, 0] * 255, cv2.Canny(np.ascontiguousarray(image), *thresholds))
    assert fitted("canny")(scenes).unique().tolist() == [0, 1]


@pytest.mark.parametrize(("step", "found"), [(20, False), (40, False), (60, True)])
def test_cannys_thresholds_are_in_grey_levels_of_a_sobel_gradient(step, found):
    image = torch.full((1, 3, 16, 16), 50.0)
    image[..., 8:] += step  # a gradient of 4 steps: none above 100, only the second above 100, the third above 200
    assert bool(fitted("canny")(Batch(image / 127.5 - 1, [""], ["a"])).any()) == found


# --- hed


def annotated(weights: dict, convs: list[int], image: np.ndarray) -> np.ndarray:
    """What ControlNet's annotator makes of one RGB image of bytes, but with the sides still in floating point."""
    x, sides = torch.tensor(image).permute(2, 0, 1)[None].float() - weights["norm"].float(), []
    for block, count in enumerate(convs, 1):
        x = x if block == 1 else F.max_pool2d(x, 2, 2)
        for k in range(count):
            name = f"block{block}.convs.{k}"
            x = F.relu(F.conv2d(x, weights[f"{name}.weight"].float(), weights[f"{name}.bias"].float(), padding=1))
        name = f"block{block}.projection"
        side = F.conv2d(x, weights[f"{name}.weight"].float(), weights[f"{name}.bias"].float())[0, 0]
        sides.append(cv2.resize(side.numpy(), image.shape[1::-1], interpolation=cv2.INTER_LINEAR))
    return 1 / (1 + np.exp(-np.mean(np.stack(sides, axis=2), axis=2).astype(np.float64)))


def test_hed_is_the_network_and_the_annotator(scenes):
    layout, images = fitted("hed")(scenes), bytes_of(scenes)
    network = load_hed(SCENES_WEIGHTS / "hed").requires_grad_(False)
    assert torch.equal(layout[:, 0], network(torch.tensor(images).permute(0, 3, 1, 2).float()))
    weights = load_file(SCENES_WEIGHTS / "hed" / "model.safetensors")
    for i, image in enumerate(images):
        assert np.allclose(layout[i, 0], annotated(weights, [2, 2, 3, 3, 3], image), atol=1e-4)


def test_hed_takes_controlnets_file_alone_or_in_a_folder_and_runs_no_code(tmp_path, scenes):
    file = tmp_path / CONTROLNET_FILE
    weights = HED().state_dict()
    torch.save(weights, file)
    one = build("hed", weights=str(file))
    assert one.identity == build("hed", weights=str(tmp_path)).identity
    image = bytes_of(scenes)[0, :32, :48]
    small = Batch(scenes.image[:1, :, :32, :48], [""], ["a"])
    assert np.allclose(one(small)[0, 0], annotated(weights, [2, 2, 3, 3, 3], image), atol=1e-4)
    file.write_bytes(pickle.dumps(Bomb(tmp_path / "exploded"), protocol=2))
    with pytest.raises(WeightsMissing, match="the folder must hold config.json and model.safetensors as HED.save"):
        build("hed", weights=str(file))
    assert not (tmp_path / "exploded").exists()


class Bomb:
    """A pickle that makes a folder when it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


# --- midas


def test_midas_is_the_pipeline_of_transformers_from_0_to_1(scenes):
    estimate = transformers_pipeline("depth-estimation", model=str(SCENES_WEIGHTS / "midas"), dtype=torch.float32)
    layout = fitted("midas")(scenes)
    for i, image in enumerate(bytes_of(scenes)):
        depth = estimate(Image.fromarray(image))["predicted_depth"].squeeze()
        expected = (depth - depth.min()) / (depth.max() - depth.min())
        assert torch.allclose(layout[i, 0], expected, atol=1e-4)
    assert (layout.amin((1, 2, 3)) == 0).all() and (layout.amax((1, 2, 3)) == 1).all()


def test_midas_is_near_where_the_scene_is_near(scenes):
    near = [1 / torch.as_tensor(depth) for depth in scenes.extra["depth"]]
    pairs = zip(fitted("midas")(scenes)[:, 0], near, strict=True)
    assert all(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1] > 0.8 for a, b in pairs)


def test_an_image_without_depth_has_a_layout(scenes, monkeypatch):
    conditioning = build("midas")
    monkeypatch.setattr(conditioning.networks["midas"], "depth", lambda image: torch.full((6, 64, 64), 3.0))
    assert not conditioning(scenes).any()


# --- weights of hed and midas


@pytest.mark.parametrize(
    ("name", "flag", "words"),
    [
        ("hed", "lllyasviel/Annotators", "run 'hf download lllyasviel/Annotators ControlNetHED.pth --local-dir DIR'"),
        ("midas", "Intel/dpt-hybrid-midas", "run 'hf download Intel/dpt-hybrid-midas --local-dir DIR'"),
        ("hed", "./nowhere", "which is not a folder"),
        ("midas", "./nowhere", "which is not a folder"),
        ("hed", "none", "an untrained hed"),
        ("midas", "none", "an untrained midas"),
        ("midas", str(SCENES_WEIGHTS / "segmenter"), "ends in DepthEstimation"),
        ("hed", str(SCENES_WEIGHTS / "midas"), "the folder must hold config.json and model.safetensors as HED.save"),
    ],
)
def test_weights_that_are_nowhere_are_a_sentence(name, flag, words, tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    with pytest.raises(WeightsMissing, match=words):
        build(name, weights=flag)


def test_a_load_draws_nothing_from_the_run():
    state = torch.get_rng_state()
    for name in ("hed", "midas"):
        build(name)
    assert torch.equal(state, torch.get_rng_state())


# --- segmap


def test_label_maps_give_the_labels_back(scenes):
    known = scenes.mask != IGNORE
    layout = fitted("segmap")(scenes)
    assert layout.shape[1] == len(CLASSES) and torch.equal(layout.sum(1), known.float())
    assert torch.equal(layout.argmax(1)[known], scenes.mask[known]) and not known.all()
    painted = build("segmap", form="colours")
    colours = painted(scenes)
    assert colours.shape == scenes.image.shape and torch.equal(fitted("segmap").visualize(layout), colours)
    nearest = torch.cdist(colours.permute(0, 2, 3, 1)[known], painted.palette[:-1]).argmin(1)
    assert torch.equal(nearest, scenes.mask[known])
    assert not colours.permute(0, 2, 3, 1)[~known].any()


def test_classes_have_the_colours_of_pascal_voc():
    from lumen.conditionings.segmap import class_palette

    colours = (class_palette(182) * 255).round().int().tolist()
    for number, colour in enumerate([*colours[:-1]], 1):
        expected, rest = [0, 0, 0], number
        for place in range(7, -1, -1):
            expected = [value | (rest >> k & 1) << place for k, value in enumerate(expected)]
            rest >>= 3
        assert colour == expected
    assert colours[:3] == [[128, 0, 0], [0, 128, 0], [128, 128, 0]] and colours[-1] == [0, 0, 0]
    distances = torch.pdist(torch.tensor(colours).float())
    assert distances.min() >= 32
