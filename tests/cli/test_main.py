"""The paths users take, through main([...]): train, repeat, go on, measure again, sample, draw, compare."""

import json
import shlex
import signal
import subprocess
import sys
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from lumen.__main__ import main
from lumen.config.experiment import reload
from lumen.core.registry import backbones, conditionings, metrics
from lumen.core.visualize import load_grid
from lumen.features.pca import Basis
from lumen.runs import evaluate
from lumen.runs.build import build_data, build_module
from lumen.runs.directory import saved
from lumen.runs.state_hashes import evidence
from lumen.training import checkpoint_io as checkpoints
from lumen.training.callbacks import learning
from lumen.training.checkpoint_io import found, step_of
from lumen.training.tasks.layout_to_image import LayoutModule

TINY = [
    "size=32",
    "diffusion.weights=none",
    "batch=2",
    "data.images=12",
    "conditioning.vectors=60",
    "validation=4",
    "workers=0",
    "warmup=1",
    "metrics=[]",
    "measure.images=3",
]
TINY += ["sampling.steps=2", "sampling.images=1", "every.log=1", "every.validate=2", "every.checkpoint=1"]
JUDGED = [f"metrics=[{','.join(metrics.names())}]"]
STEPS = 4


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> Path:
    """A run folder of four steps."""
    runs = tmp_path_factory.mktemp("runs")
    assert main(["train", "scenes", *TINY, *JUDGED, f"steps={STEPS}", "ema=0.5", f"runs={runs}"]) == 0
    return next(runs.glob("scenes/*/seed0"))


@pytest.fixture(scope="session")
def photo(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("photo") / "photo.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8)).save(path)
    return path


def journal(place: Path) -> list[dict]:
    return [json.loads(line) for line in (place / "metrics.jsonl").read_text().splitlines()]


def losses(place: Path) -> dict[int, float]:
    return {line["step"]: line["train/loss"] for line in journal(place) if "train/loss" in line}


def test_a_run_folder_holds_all_that_was_promised(finished):
    names = {p.name for p in finished.iterdir()}
    wanted = {"config.yaml", "provenance.json", "metrics.json", "metrics.jsonl", "basis.safetensors", "grid.png"}
    assert wanted | {"checkpoints", "wandb", "id"} <= names
    figures = json.loads((finished / "metrics.json").read_text())
    assert figures["steps"] == STEPS and 0 < figures["val/loss"] < 3 and 0 < figures["layout/explained_variance"] <= 1
    assert {"commit", "versions", "hardware", "data", "command"} <= json.loads(
        (finished / "provenance.json").read_text()
    ).keys()
    low, high = figures["test/miou_95"]
    assert {f"{kind}/miou" for kind in ("real", "vae", "text", "shuffled")} <= figures.keys()
    assert low <= figures["test/miou"] <= high and "test/lpips-scenes" in figures
    assert "real/lpips-scenes" not in figures and figures["real/kid-scenes"] == pytest.approx(0, abs=1e-6)
    assert figures["real/miou"] > figures["test/miou"] and 0 <= figures["val/response"] < 1
    assert yaml.safe_load((finished / "config.yaml").read_text())["backbone"]["name"] == "dino"
    shown, captions = load_grid(finished / "grid.png", 2 + figures["sampling"]["images"])
    assert len(shown) == len(captions) > 1 and all(captions)
    assert sorted(losses(finished)) == list(range(STEPS))
    assert [line["step"] for line in journal(finished) if "val/loss" in line] == [1, 3]


def test_a_checkpoint_holds_what_was_learnt_and_loads_without_code(finished):
    paths = sorted((finished / "checkpoints").glob("*.ckpt"))
    assert [p.name for p in paths] == ["step00000003.ckpt", "step00000004.ckpt"]  # keep=2
    checkpoint = torch.load(paths[-1], weights_only=True)
    assert checkpoint["global_step"] == STEPS
    assert {k.partition(".")[0] for k in checkpoint["state_dict"]} == {"diffusion", "conditioning"}
    assert all(
        k.startswith(("diffusion.controlnet.", "conditioning.")) and "backbone" not in k
        for k in checkpoint["state_dict"]
    )
    assert checkpoint["callbacks"]["Average"]["shadow_params"]


def test_the_last_picture_is_drawn_with_the_averaged_weights_and_the_live_ones_are_saved(finished):
    checkpoint = torch.load(finished / "checkpoints" / "step00000004.ckpt", weights_only=True)
    live = [v for k, v in checkpoint["state_dict"].items() if k.startswith("diffusion.")]
    averaged = checkpoint["callbacks"]["Average"]["shadow_params"]
    assert [v.shape for v in live] == [v.shape for v in averaged]
    assert not all(torch.equal(a, b) for a, b in zip(live, averaged, strict=True))


def test_a_finished_run_is_not_run_again(finished, capsys):
    before = {p: p.stat().st_mtime_ns for p in finished.rglob("*")}
    assert main(["train", "scenes", *TINY, *JUDGED, f"steps={STEPS}", "ema=0.5", f"runs={finished.parents[2]}"]) == 0
    assert "is finished" in capsys.readouterr().out
    assert before == {p: p.stat().st_mtime_ns for p in finished.rglob("*")}


def test_wandb_has_the_same_figures(finished):
    record = next((finished / "wandb").glob("offline-run-*/*.wandb"))
    told = subprocess.run(
        ["wandb", "leet", "inspect", str(record.parent), "--json"], capture_output=True, text=True, check=True
    ).stdout
    records = [json.loads(line) for line in told.splitlines()]
    assert "train/loss" in told and "backbone:dino" in told and "data:scenes" in told
    assert any(r.get("type") == "history" for r in records)


@pytest.mark.parametrize(("told", "stop", "code"), [(signal.SIGTERM, 1, 75), (signal.SIGINT, 2, 130)])
def test_an_interrupted_run_goes_on(finished, place, monkeypatch, told, stop, code):
    """SIGTERM has the step that is being taken finished and saved, though no checkpoint and a validation are due."""
    step = LayoutModule.training_step

    def interrupted(self, batch, index):
        if self.global_step == stop:
            signal.raise_signal(told)
        return step(self, batch, index)

    command = ["train", "scenes", *TINY, *JUDGED, f"steps={STEPS}", "ema=0.5"]
    rarely = ["every.checkpoint=9"] if code == 75 else []
    monkeypatch.setattr(LayoutModule, "training_step", interrupted)
    assert main([*command, *rarely]) == code
    again = next(place.glob("runs/scenes/*/seed0"))
    assert step_of(found(again / "checkpoints")[0]) == 2
    assert ("val/loss" in journal(again)[-1]) == (code != 75)
    monkeypatch.setattr(LayoutModule, "training_step", step)
    assert main(command) == 0
    assert len(journal(again)) == len(journal(finished)) and evidence(again) == evidence(finished)


@pytest.mark.long
def test_a_run_that_is_begun_compiled_goes_on_uncompiled_as_the_run_that_never_was(finished, place):
    """Through Dynamo without a code generator, whose rounding would be its own.

    In a process of its own: after a compiled backward pass no fork of a process can go back, and other tests fork.
    """
    step, compiled = LayoutModule.training_step, []

    def interrupted(self, batch, index):
        compiled.append(hasattr(self.diffusion.denoise, "_torchdynamo_orig_callable"))
        if self.global_step == 2:
            signal.raise_signal(signal.SIGINT)
        return step(self, batch, index)

    def begun() -> None:
        torch.compile = partial(torch.compile, backend="eager")
        LayoutModule.training_step = interrupted
        code = main([*command, "compile=true"])
        sys.exit(code if all(compiled) else 1)

    command = ["train", "scenes", *TINY, *JUDGED, f"steps={STEPS}", "ema=0.5"]
    child = get_context("fork").Process(target=begun)
    child.start()
    child.join()
    assert child.exitcode == 130
    assert main(command) == 0
    assert evidence(next(place.glob("runs/scenes/*/seed0"))) == evidence(finished)


def test_a_run_that_is_killed_once_it_has_saved_keeps_the_figures_of_that_step(finished, place, monkeypatch):
    prune = checkpoints.prune

    def killed(folder, *how):
        if step_of(found(folder)[0]) == 3:
            raise KeyboardInterrupt
        prune(folder, *how)

    command = ["train", "scenes", *TINY, *JUDGED, f"steps={STEPS}", "ema=0.5"]
    monkeypatch.setattr(checkpoints, "prune", killed)
    assert main(command) == 130
    monkeypatch.setattr(checkpoints, "prune", prune)
    assert main(command) == 0
    assert evidence(next(place.glob("runs/scenes/*/seed0"))) == evidence(finished)


def test_a_run_that_was_stopped_while_measuring_is_measured(finished, capsys):
    figures, lines = json.loads((finished / "metrics.json").read_text()), journal(finished)
    (finished / "metrics.json").unlink()
    assert main(["train", "scenes", *TINY, *JUDGED, f"steps={STEPS}", "ema=0.5", f"runs={finished.parents[2]}"]) == 0
    assert json.loads((finished / "metrics.json").read_text()) == figures
    trained = [line for line in lines if line["step"] < STEPS]
    assert [line for line in journal(finished) if line["step"] < STEPS or "val/loss" in line] == trained
    assert sum("test/miou" in line for line in journal(finished)) == 1


def test_measuring_again_makes_a_record_of_its_own(finished):
    assert main(["eval", str(finished), "sampling.steps=3"]) == 0
    again = json.loads((finished / "eval" / "sampling.steps=3" / "metrics.json").read_text())
    first = json.loads((finished / "metrics.json").read_text())
    assert again["sampling"]["steps"] == 3 and first["sampling"]["steps"] == 2
    assert again["val/loss"] == pytest.approx(first["val/loss"], rel=1e-5)


def test_a_photo_is_sampled_under_a_prompt(finished, photo, place):
    assert main(["sample", str(finished), str(photo), "a house at night", "out=one.png"]) == 0
    assert main(["sample", str(finished), str(photo), "a house at night", "out=two.png"]) == 0
    assert main(["sample", str(finished), str(photo), "a house at night", "seed=1", "out=three.png"]) == 0
    one, two, three = (np.asarray(Image.open(f"{n}.png")) for n in ("one", "two", "three"))
    assert (one == two).all() and (one != three).any()


def test_what_is_measured_later_are_the_averaged_weights(finished):
    config = reload(saved(finished))
    module = build_module(config, build_data(config))
    path = finished / "checkpoints" / "step00000004.ckpt"
    evaluate.restore(module, path)
    averaged = torch.load(path, weights_only=True)["callbacks"]["Average"]["shadow_params"]
    assert all(torch.equal(a, b) for a, b in zip(learning(module), averaged, strict=True))


@pytest.mark.parametrize("name", backbones.names())
def test_every_backbone_draws_the_layout_of_a_photo(name, photo, place):
    assert main(["layout", str(photo), str(photo), "base=scenes", f"backbone={name}", "conditioning.components=4"]) == 0
    assert Image.open("layout.png").size[1] > 300


@pytest.mark.parametrize("name", backbones.names())
def test_every_backbone_trains_by_one_flag(name, place):
    assert main(["train", "scenes", *TINY, f"backbone={name}", "steps=2", "wandb=disabled"]) == 0
    assert next(place.glob("runs/scenes/*/seed0/metrics.json"))


@pytest.mark.parametrize("name", conditionings.names())
def test_every_conditioning_trains_by_one_flag(name, place):
    small = [flag for flag in TINY if not flag.startswith("conditioning.")]
    assert main(["train", "scenes", *small, f"conditioning={name}", "steps=2", "wandb=disabled"]) == 0
    assert next(place.glob("runs/scenes/*/seed0/metrics.json"))


@pytest.mark.parametrize("name", ["coco_stuff", "ade20k", "cityscapes"])
def test_every_reader_trains_on_rendered_scenes(name, place):
    assert main(["data", "render", "scenes", "world", f"format={name}", "size=32", "train=6", "val=2"]) == 0
    assert main(["data", "check", name, "root=world"]) == 0
    small = [flag for flag in TINY if not flag.startswith("data.images")]
    untrained = ["backbone=dino", "backbone.size=tiny", "backbone.patch=8", "backbone.weights=none"]
    untrained += ["diffusion.weights=none", "diffusion.size=tiny", "steps=2", "wandb=disabled"]
    assert main(["train", name, "data.root=world", *small, *untrained]) == 0


@pytest.mark.parametrize(
    "flags",
    [["accumulate=2"], ["diffusion.hint=image", "conditioning.components=4"], ["diffusion.snr_gamma=5"]]
    + [["precision=bf16-mixed"], ["diffusion.checkpointing=true"], ["conditioning.vectors=all"]],
    ids=lambda flags: flags[0],
)
def test_variants_train(flags, place):
    assert main(["train", "scenes", *TINY, *flags, "steps=2", "wandb=disabled"]) == 0
    made = next(place.glob("runs/scenes/*/seed0"))
    checkpoint = torch.load(next((made / "checkpoints").glob("*02.ckpt")), weights_only=True)
    assert checkpoint["global_step"] == 2


def test_two_processes_see_what_one_sees(place, forking):
    """The same images with the same noise, so the same loss to rounding; the ranks share one basis."""
    small = [flag for flag in TINY if not flag.startswith("batch")]
    small += ["metrics=[miou,lpips]", "measure.anchors=[]"]  # of three images, so that the ranks have unequal shares
    for flags in (["batch=4"], ["batch=2", "devices=2", "accelerator=cpu"]):
        command = [sys.executable, "-m", "lumen", "train", "scenes", *small, *flags, "steps=2", "wandb=disabled"]
        subprocess.run(command, check=True, timeout=300)
    one, two = (next(place.glob(f"runs/scenes/batch={n}*/seed0")) for n in (4, 2))
    assert losses(two) == pytest.approx(losses(one), rel=1e-4)
    figures = [json.loads((place / "metrics.json").read_text()) for place in (one, two)]
    assert figures[1]["val/loss"] == pytest.approx(figures[0]["val/loss"], rel=1e-4)
    assert figures[1]["protocol"] == figures[0]["protocol"]
    for key in ("test/miou", "test/lpips-scenes"):
        assert figures[1][key] == pytest.approx(figures[0][key], abs=0.01)
    a, b = (Basis.load(place / "basis.safetensors") for place in (one, two))
    assert torch.allclose(a.axes, b.axes, atol=1e-5) and a.contract["vectors"] == b.contract["vectors"]


def test_a_table_is_run_row_by_row_and_printed(place, capsys):
    flags = ["base=scenes", *TINY, "steps=1", "wandb=disabled"]
    assert main(["ablate", "components", *flags, "--print"]) == 0
    commands = capsys.readouterr().out.splitlines()
    assert len(commands) == 6 and all(c.startswith("lumen train scenes conditioning.components=") for c in commands)
    assert main(["table", "components", *flags]) == 0
    assert capsys.readouterr().out.count("0/1") == 6
    for command in commands[:2]:
        assert main(shlex.split(command)[1:]) == 0
    capsys.readouterr()
    assert main(["table", "components", *flags]) == 0
    told = capsys.readouterr().out
    assert told.count("1/1") == 2 and "layout/explained_variance" in told


def test_help_names_every_verb(capsys):
    assert main([]) == 0 and main(["--help"]) == 0
    told = capsys.readouterr().out
    assert all(f"lumen {verb}" in told for verb in ("list", "show", "train", "eval", "sample", "ablate", "table"))
