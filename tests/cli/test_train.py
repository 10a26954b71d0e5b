"""lumen train: what a run leaves behind, how it resumes, and all components by one override."""

import json
import signal
import subprocess
import sys
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch
import yaml

from lumen.__main__ import main
from lumen.core.registry import backbones, conditionings
from lumen.core.visualize import load_grid
from lumen.features.pca import Basis
from lumen.features.pretrained import SCENES_WEIGHTS
from lumen.runs.state_hashes import hash_run_state
from lumen.training import checkpoint_io
from lumen.training.callbacks import EMA
from lumen.training.tasks.layout_to_image import LayoutToImage

STEPS = 4


def only_run(directory: Path) -> Path:
    """Return the only run directory below a directory."""
    (run,) = directory.glob("runs/scenes/*/seed0")
    return run


def test_run_directory_holds_all_files(finished, history, losses):
    names = {path.name for path in finished.iterdir()}
    files = {"config.yaml", "provenance.json", "metrics.json", "metrics.jsonl", "basis.safetensors", "grid.png"}
    assert files | {"checkpoints", "wandb", "id"} <= names
    provenance = json.loads((finished / "provenance.json").read_text())
    assert {"commit", "versions", "hardware", "data", "command"} <= provenance.keys()
    assert yaml.safe_load((finished / "config.yaml").read_text())["backbone"]["name"] == "dino"
    assert sorted(losses(finished)) == list(range(STEPS))
    assert [line["step"] for line in history(finished) if "val/loss" in line] == [1, 3]


def test_run_log_holds_what_its_commands_printed(finished):
    header, *lines = (finished / "log.txt").read_text().splitlines()
    assert header.startswith("$ lumen train scenes size=32") and any(" starts: " in line for line in lines)
    assert any(line.startswith("metrics:") for line in lines) and not any("\r" in line for line in lines)


def test_run_metrics_have_intervals_and_reference_rows(finished):
    results = json.loads((finished / "metrics.json").read_text())
    assert results["steps"] == STEPS and 0 < results["val/loss"] < 3 and 0 < results["layout/explained_variance"] <= 1
    low, high = results["test/miou_95"]
    assert {f"{row}/miou" for row in ("real", "vae", "text", "shuffled")} <= results.keys()
    assert low <= results["test/miou"] <= high and "test/lpips-scenes" in results
    assert "real/lpips-scenes" not in results and results["real/kid-scenes"] == pytest.approx(0, abs=1e-6)
    assert results["real/miou"] > results["test/miou"] and 0 <= results["val/response"] < 1
    rows, captions, titles = load_grid(finished / "grid.png", 2 + results["sampling"]["images"])
    assert len(rows) == len(captions) > 1 and all(captions) and titles == ["image", "layout", "sample 1"]


def test_checkpoint_holds_trained_weights_alone_and_loads_without_code(finished):
    paths = sorted((finished / "checkpoints").glob("*.ckpt"))
    assert [path.name for path in paths] == ["step00000003.ckpt", "step00000004.ckpt"]  # keep=2
    checkpoint = torch.load(paths[-1], weights_only=True)
    assert checkpoint["global_step"] == STEPS
    assert {key.partition(".")[0] for key in checkpoint["state_dict"]} == {"diffusion", "conditioning"}
    assert all(key.startswith(("diffusion.controlnet.", "conditioning.")) for key in checkpoint["state_dict"])
    assert not any("backbone" in key for key in checkpoint["state_dict"])


def test_checkpoint_holds_live_weights_beside_their_average(finished):
    checkpoint = torch.load(finished / "checkpoints" / "step00000004.ckpt", weights_only=True)
    live = [value for key, value in checkpoint["state_dict"].items() if key.startswith("diffusion.")]
    averaged = checkpoint["callbacks"][EMA.state_key]["shadow_params"]
    assert [value.shape for value in live] == [value.shape for value in averaged]
    assert not all(torch.equal(a, b) for a, b in zip(live, averaged, strict=True))


def test_finished_run_is_not_trained_again(finished, command, capsys):
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*")}
    assert main([*command, f"runs={finished.parents[2]}"]) == 0
    assert "is finished" in capsys.readouterr().out
    assert before == {path: path.stat().st_mtime_ns for path in finished.rglob("*")}


@pytest.fixture(scope="module")
def short_command(tiny) -> list[str]:
    """Arguments that train a run of four steps, with little to evaluate."""
    return ["train", "scenes", *tiny, f"steps={STEPS}", "ema=0.5", "wandb=disabled"]


@pytest.fixture(scope="module")
def uninterrupted(short_command, tmp_path_factory) -> Path:
    """Directory of the short run, which nothing has stopped."""
    runs = tmp_path_factory.mktemp("uninterrupted")
    assert main([*short_command, f"runs={runs}"]) == 0
    return next(runs.glob("scenes/*/seed0"))


@pytest.mark.parametrize(("number", "step", "code"), [(signal.SIGTERM, 1, 75), (signal.SIGINT, 2, 130)])
def test_interrupted_run_resumes(uninterrupted, short_command, history, workdir, monkeypatch, number, step, code):
    """SIGTERM lets the current step finish and saves it, although no checkpoint and a validation are due."""
    training_step = LayoutToImage.training_step

    def interrupted(self, batch, batch_idx):
        if self.global_step == step:
            signal.raise_signal(number)
        return training_step(self, batch, batch_idx)

    monkeypatch.setattr(LayoutToImage, "training_step", interrupted)
    assert main([*short_command, *(["every.checkpoint=9"] if code == 75 else [])]) == code
    run = only_run(workdir)
    assert checkpoint_io.step_of(checkpoint_io.list_checkpoints(run / "checkpoints")[0]) == 2
    assert ("val/loss" in history(run)[-1]) == (code != 75)
    monkeypatch.setattr(LayoutToImage, "training_step", training_step)
    assert main(short_command) == 0
    assert len(history(run)) == len(history(uninterrupted)) and hash_run_state(run) == hash_run_state(uninterrupted)


@pytest.mark.long
def test_compiled_run_resumes_uncompiled_with_equal_bits(short_command, workdir):
    """Dynamo without a code generator, whose rounding would differ.

    It runs in a process of its own: after a compiled backward pass a fork cannot run one, and other tests fork.
    """
    command = [*short_command, "every.validate=4"]  # after the resume: to compile a validation takes long as well
    training_step, compiled = LayoutToImage.training_step, []

    def interrupted(self, batch, batch_idx):
        compiled.append(hasattr(self.generator.denoise, "_torchdynamo_orig_callable"))
        if self.global_step == 2:
            signal.raise_signal(signal.SIGINT)
        return training_step(self, batch, batch_idx)

    def train_compiled() -> None:
        torch.compile = partial(torch.compile, backend="eager")
        LayoutToImage.training_step = interrupted
        code = main([*command, "compile=true"])
        sys.exit(code if all(compiled) else 1)

    child = get_context("fork").Process(target=train_compiled)
    child.start()
    child.join()
    assert child.exitcode == 130
    assert main(command) == main([*command, "runs=whole"]) == 0
    assert hash_run_state(only_run(workdir)) == hash_run_state(next(workdir.glob("whole/scenes/*/seed0")))


def test_run_that_is_killed_after_a_save_keeps_its_history(uninterrupted, short_command, workdir, monkeypatch):
    prune = checkpoint_io.prune

    def interrupted(directory, *arguments):
        if checkpoint_io.step_of(checkpoint_io.list_checkpoints(directory)[0]) == 3:
            raise KeyboardInterrupt
        prune(directory, *arguments)

    monkeypatch.setattr(checkpoint_io, "prune", interrupted)
    assert main(short_command) == 130
    monkeypatch.setattr(checkpoint_io, "prune", prune)
    assert main(short_command) == 0
    assert hash_run_state(only_run(workdir)) == hash_run_state(uninterrupted)


def test_run_that_was_interrupted_in_evaluation_is_evaluated(finished, command, history):
    results, lines = json.loads((finished / "metrics.json").read_text()), history(finished)
    (finished / "metrics.json").unlink()
    assert main([*command, f"runs={finished.parents[2]}"]) == 0
    assert json.loads((finished / "metrics.json").read_text()) == results
    trained = [line for line in lines if line["step"] < STEPS]
    assert [line for line in history(finished) if line["step"] < STEPS or "val/loss" in line] == trained
    assert sum("test/miou" in line for line in history(finished)) == 1


@pytest.mark.parametrize(
    "name",
    [
        *(name for name in backbones.names() if (SCENES_WEIGHTS / name).is_dir()),
        *(pytest.param(name, marks=pytest.mark.long) for name in ("fusion", "pixels", "untrained")),
    ],
)
def test_every_backbone_trains_by_one_override(name, tiny, workdir):
    assert main(["train", "scenes", *tiny, f"backbone={name}", "steps=2", "wandb=disabled"]) == 0
    assert (only_run(workdir) / "metrics.json").exists()


@pytest.mark.parametrize("name", conditionings.names())
def test_every_conditioning_trains_by_one_override(name, tiny, workdir):
    overrides = [override for override in tiny if not override.startswith("conditioning.")]
    assert main(["train", "scenes", *overrides, f"conditioning={name}", "steps=2", "wandb=disabled"]) == 0
    assert (only_run(workdir) / "metrics.json").exists()


@pytest.mark.parametrize("name", ["coco_stuff", "ade20k", "cityscapes"])
def test_every_data_format_trains_on_rendered_scenes(name, tiny, workdir):
    assert main(["data", "render", "scenes", "world", f"format={name}", "size=32", "train=6", "val=2"]) == 0
    assert main(["data", "check", name, "root=world"]) == 0
    overrides = [override for override in tiny if not override.startswith("data.images")]
    untrained = ["backbone=dino", "backbone.size=tiny", "backbone.patch=8", "backbone.weights=none"]
    untrained += ["steps=2", "wandb=disabled"]
    assert main(["train", name, "data.root=world", *overrides, *untrained]) == 0


@pytest.mark.parametrize(
    "overrides",
    [["accumulate=2"], ["diffusion.hint=image", "conditioning.components=4"], ["diffusion.snr_gamma=5"]]
    + [["precision=bf16-mixed"], ["diffusion.checkpointing=true"], ["conditioning.vectors=all"]],
    ids=lambda overrides: overrides[0],
)
def test_variants_of_a_run_train(overrides, tiny, workdir):
    assert main(["train", "scenes", *tiny, *overrides, "steps=2", "wandb=disabled"]) == 0
    (path,) = (only_run(workdir) / "checkpoints").glob("*02.ckpt")
    assert torch.load(path, weights_only=True)["global_step"] == 2


def test_two_ranks_train_on_the_images_and_noise_of_one(tiny, losses, workdir, forking):
    """The loss is equal up to rounding, and the ranks share one basis."""
    overrides = [override for override in tiny if not override.startswith("batch")]
    overrides += ["metrics=[miou,lpips]", "measure.anchors=[]"]  # of three images, so the ranks have unequal shares
    for split in (["batch=4"], ["batch=2", "devices=2", "accelerator=cpu"]):
        command = [sys.executable, "-m", "lumen", "train", "scenes", *overrides, *split, "steps=2", "wandb=disabled"]
        subprocess.run(command, check=True, timeout=300)
    one, two = (next(workdir.glob(f"runs/scenes/batch={batch}*/seed0")) for batch in (4, 2))
    assert losses(two) == pytest.approx(losses(one), rel=1e-4)
    first, second = (json.loads((run / "metrics.json").read_text()) for run in (one, two))
    assert second["val/loss"] == pytest.approx(first["val/loss"], rel=1e-4)
    assert second["protocol"] == first["protocol"]
    for key in ("test/miou", "test/lpips-scenes"):
        assert second[key] == pytest.approx(first[key], abs=0.01)
    a, b = (Basis.load(run / "basis.safetensors") for run in (one, two))
    assert torch.allclose(a.axes, b.axes, atol=1e-5) and a.metadata["vectors"] == b.metadata["vectors"]
