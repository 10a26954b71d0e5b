"""Mistakes of a user through main([...]): exit code 2, one sentence, nothing half-written, nothing lost."""

import pickle
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer

from lumen.__main__ import main
from lumen.config.experiment import load
from lumen.core.errors import BadCheckpoint, BasisMismatch, Diverged, Mistake
from lumen.core.interfaces import Optimization, Task
from lumen.core.locks import lock_directory
from lumen.generators.controlnet import ControlNet
from lumen.runs.build import build_task
from lumen.runs.checkpoints import restore
from lumen.runs.data import build_data
from lumen.runs.directory import run_directory, write_or_verify_config
from lumen.training.callbacks import DivergenceGuard
from lumen.training.checkpoint_io import list_checkpoints

SMALL = ["size=32", "diffusion.weights=none", "batch=2", "data.images=6", "conditioning.vectors=60", "validation=2"]
SMALL += ["warmup=1", "wandb=disabled", "metrics=[]", "sampling.steps=1", "sampling.images=1", "every.log=1"]
SMALL += ["every.validate=9", "every.checkpoint=1"]


def message(capsys, arguments: list[str]) -> str:
    """Return the sentence that a command prints on stderr after a mistake."""
    assert main(arguments) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("lumen: ") and line.endswith(".") and "Traceback" not in line
    return line


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """Directory of a run of three steps; tests restore what they change."""
    runs = tmp_path_factory.mktemp("runs")
    assert main(["train", "scenes", *SMALL, "steps=3", f"runs={runs}"]) == 0
    return next(runs.glob("scenes/*/seed0"))


# Each command with the words of its message that help: names, numbers, and what to do next.
MISTAKES = [
    ("trian scenes", "'trian'; did you mean 'train'"),
    ("data chek scenes", "'data chek'; did you mean 'data check'"),
    ("train", "EXPERIMENT.* write: lumen train EXPERIMENT"),
    ("train scenes ade20k", "EXPERIMENT.* not 2: 'scenes', 'ade20k'"),
    ("train scene", "did you mean 'scenes'"),
    ("train scenes stepz=3", "did you mean 'steps'[?] The nearest are steps, .* `lumen help keys` lists all"),
    ("train scenes guidance=3", "did you mean 'sampling.guidance'"),
    ("train scenes patch=8", "did you mean 'backbone.patch'"),
    ("train scenes sampling=3", "sampling is a group of keys, which `lumen help sampling` lists"),
    ("train scenes backbone=dinov4", "did you mean 'dinov2'"),
    ("train scenes backbone.patches=8", "did you mean 'patch'"),
    ("train scenes backbone.patch=9", "must be 8 or 16, not 9"),
    ("train scenes steps=many", "steps.* 'many'"),
    ("train scenes size=30", "size=30 .* 4 px cells; choose 28 or 32"),
    ("train scenes size=36 backbone.patch=8", "32 x 32 and 40 x 40.* backbone.fit=true"),
    ("train scenes metrics=[lpips] measure.samples=1", "lpips .* 2 samples .* measure.samples"),
    ("train scenes metrics=[miou] measure.images=1", "measure.images=1 .* raise it to 2"),
    ("train scenes conditioning.components=999", "choose 1 to 128"),
    ("train scenes conditioning.basis=none.safetensors", "none.safetensors"),
    (
        "train scenes backbone.size=tiny backbone.weights=published",
        "tiny dino has no published weights; give backbone.weights=none",
    ),
    (
        "train scenes backbone=mae backbone.weights=scenes",
        "no small mae; it has clip, dino, dinov2, sd.* backbone.weights",
    ),
    ("train scenes measure.save_predictions=true", "3D boxes are saved, and the task 'layout_to_image' predicts none"),
    ("train scenes backbone.weights=/nowhere", "'/nowhere'.* backbone.weights=FOLDER"),
    ("train scenes diffusion.weights=nobody/nothing", "hf download nobody/nothing .*give diffusion.weights=DIR"),
    ("train scenes backbone.weights=nobody/nothing", "give backbone.weights=DIR"),
    ("train scenes diffusion.vae=nobody/nothing", "give diffusion.vae=DIR"),
    ("train coco_stuff data.root=/nowhere diffusion.weights=none", "/nowhere does not exist"),
    ("train scenes --fast", "'--fast'.* key=value"),
    ("train scenes --lr 1e-3", "'--lr'; write lr=1e-3"),
    ("train scenes --sampling.steps=3", "write sampling.steps=3"),
    ("ablate table1 --seeds 3", "write seeds=3"),
    ("train scenes -q -v", "-q and -v contradict each other"),
    ("train scenes diffusion.size=small", "diffusion.size cannot be 'small'; it must be tiny, v1 or v2"),
    ("train scenes workers=-1", "workers .* between 0 and 1,024, not -1"),
    ("train scenes devices=3 validation=2", "3 processes .* val .* 2; raise validation"),
    ("train scenes stop_after=50", "stop_after .* 3h50m or 90s, not 50"),
    ("train scenes best=fid", "best cannot be 'fid'; it must be val/loss or null"),
    ("certify scenes steps=5", "steps=5 .* 6 or more"),
    ("train scenes strategy=foo", "foo.* Change devices, accelerator or strategy"),
    ("ablate table1 base=scenes backbone=sd", "backbone .* table1"),
    ("ablate table1 base=scenes seed=3", "seed .* table1"),
    ("eval nowhere", "nowhere .* config.yaml"),
    ("sample nowhere photo.jpg", "write: lumen sample RUN PHOTO"),
    ("layout base=scenes", "write: lumen layout RUN[|]PHOTO"),
    ("layout none.jpg base=scenes", "none.jpg does not exist"),
    ("ablate table9", "'table9'; did you mean 'table[12]'"),
    ("leakage table9", "'table9'; did you mean 'table[12]'"),
    ("leakage components base=scenes conditioning.components=3", "conditioning.components .* components"),
    ("table table1 base=scenes seeds=none", "seeds .* not 'none'"),
    ("table table1 base=scenes lrr=1", "'lrr'; did you mean 'lr'"),
    ("cache ls gb=3", "gb=3; write: lumen cache ls"),
    ("cache prune gb=many", "gb .* 'many'"),
    ("data render scenes out format=pascal", "'pascal'.* format=NAME"),
    ("data render scenes out colour=3", "'colour'; Available: format, size"),
    ("data render moon out", "write: lumen data render scenes"),
]


@pytest.mark.parametrize(("arguments", "words"), MISTAKES, ids=[arguments for arguments, _ in MISTAKES])
def test_mistake_is_one_sentence_and_leaves_nothing(arguments, words, workdir, capsys):
    small = SMALL if arguments.startswith("train scenes") else []
    overrides = [override for override in small if override.partition("=")[0] not in arguments]
    assert re.search(words, message(capsys, [*arguments.split(), *overrides]))
    assert list(workdir.iterdir()) == []


def test_run_directory_has_one_writer(workdir, capsys):
    with lock_directory(run_directory(load("scenes", [*SMALL, "steps=1"]))):
        assert "in use by another process" in message(capsys, ["train", "scenes", *SMALL, "steps=1"])


def test_run_directory_has_one_config(workdir, capsys):
    path = workdir / "mine.yaml"
    overrides = ["runs=runs", *(override for override in SMALL if not override.startswith("lr="))]
    path.write_text(
        "data: {name: scenes}\nbackbone: {name: dino, size: tiny, patch: 8, weights: none}\nlr: 1e-3\n"
        "diffusion: {weights: none, size: tiny}\n"
    )
    config = load(str(path), overrides)
    write_or_verify_config(run_directory(config), config)
    path.write_text(path.read_text().replace("1e-3", "1e-4"))
    assert "lr was 0.001, is now 0.0001" in message(capsys, ["train", str(path), *overrides])


@pytest.mark.parametrize("runs", ["/dev/null/runs", "/proc/runs"])
def test_run_directory_that_cannot_be_written_is_named(runs, workdir, capsys):
    assert re.search(f"{runs}.* runs=DIR", message(capsys, ["train", "scenes", *SMALL, "steps=1", f"runs={runs}"]))


def test_full_disk_leaves_no_partial_checkpoint(workdir, forking):
    limit = 300_000  # bytes of a file: enough for everything but a checkpoint
    result = subprocess.run(
        [sys.executable, "-m", "lumen", "train", "scenes", *SMALL, "steps=1"],
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    assert result.returncode == 2 and "could not be written" in result.stderr.splitlines()[-1]
    assert not list(workdir.rglob("checkpoints/*")) and not list(workdir.rglob("*.part"))


class Bomb:
    """Pickle that creates a file when it is loaded."""

    def __reduce__(self):
        return Path.touch, (Path("exploded"),)


def damage(path: Path, kind: str) -> None:
    """Damage a checkpoint."""
    if kind == "truncated":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "code":
        path.write_bytes(pickle.dumps(Bomb()))
    else:
        torch.save({"weights": torch.zeros(1)}, path)


@pytest.mark.parametrize("kind", ["truncated", "empty", "code", "foreign"])
def test_damaged_checkpoint_is_skipped(kind, trained, capsys):
    newest = list_checkpoints(trained / "checkpoints")[0]
    results = (trained / "metrics.json").read_bytes()
    (trained / "metrics.json").unlink()
    damage(newest, kind)
    assert main(["train", "scenes", *SMALL, "steps=3", f"runs={trained.parents[2]}"]) == 0
    output = capsys.readouterr().out
    assert str(newest) in output and "at step 2" in output
    assert (trained / "metrics.json").read_bytes() == results


def test_code_in_a_checkpoint_is_not_run(workdir, trained, capsys):
    contents = {path: path.read_bytes() for path in list_checkpoints(trained / "checkpoints")}
    for path in contents:
        damage(path, "code")
    line = message(capsys, ["eval", str(trained), "sampling.steps=2"])
    for path, content in contents.items():
        path.write_bytes(content)
    assert "none of the 2 checkpoints" in line and not Path("exploded").exists()


def build(overrides: list[str]) -> Task:
    """Return an untrained task."""
    config = load("scenes", [*SMALL, *overrides])
    return build_task(config, build_data(config))


def test_checkpoint_belongs_to_one_backbone(trained, capsys):
    path = list_checkpoints(trained / "checkpoints")[0]
    for overrides, error in (
        (["backbone=sd"], BadCheckpoint),
        (["conditioning.components=3"], BadCheckpoint),
        (["backbone.facet=key"], BasisMismatch),
    ):
        with pytest.raises(error):
            restore(build(overrides), path)
    assert re.search("backbone .* lumen train", message(capsys, ["eval", str(trained), "backbone=sd"]))


def test_checkpoint_belongs_to_one_base_model():
    task = build([])
    checkpoint = {"state_dict": task.state_dict()}
    task.on_save_checkpoint(checkpoint)
    task.on_load_checkpoint(checkpoint)
    checkpoint["frozen"] = checkpoint["frozen"] | {"unet": "another"}
    with pytest.raises(BadCheckpoint, match="unet .*another.* diffusion.weights, revision and vae.$"):
        task.on_load_checkpoint(checkpoint)
    checkpoint["lumen"] = "0.0.1"
    with pytest.raises(BadCheckpoint, match="diffusion.weights, .*; LUMEN 0.0.1 has .* lumen/scenes/weights.$"):
        task.on_load_checkpoint(checkpoint)


def test_loss_that_is_not_finite_stops_the_run(workdir, monkeypatch, capsys):
    loss = ControlNet.loss

    def broken(self, latent_moments, caption, layout, keys, timesteps=None):
        value = loss(self, latent_moments, caption, layout, keys, timesteps)
        return value * (float("nan") if keys[0][-1] == 2 else 1)

    monkeypatch.setattr(ControlNet, "loss", broken)
    assert re.search("step 3 .* finite", message(capsys, ["train", "scenes", *SMALL, "steps=4"]))
    names = [path.name for path in list_checkpoints(next(workdir.rglob("checkpoints")))]
    assert names == ["step00000002.ckpt", "step00000001.ckpt"]


def test_frozen_network_that_changes_stops_the_run():
    network = torch.nn.Linear(3, 3)
    guard, task = DivergenceGuard({"unet": network}, 1), Task(Optimization())
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    guard.on_fit_start(trainer, task)
    guard.on_validation_start(trainer, task)
    with torch.no_grad():
        network.weight[0, 0] += 1e-6
    with pytest.raises(Diverged, match="step 0 .* unet"):
        guard.on_validation_start(trainer, task)


def test_mistake_classes_have_docstrings():
    classes = Mistake.__subclasses__()
    assert len(classes) > 5 and all(error.__doc__ for error in classes)
