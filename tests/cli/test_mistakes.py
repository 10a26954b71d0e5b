"""Bad input through main([...]): exit code 2, one sentence, nothing half-written, nothing lost."""

import pickle
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer

from lumen.__main__ import main
from lumen.config.experiment import load
from lumen.core import locks
from lumen.core.errors import BadCheckpoint, BasisMismatch, Diverged, Mistake
from lumen.generators.controlnet import ControlledDiffusion
from lumen.runs import directory as folder
from lumen.runs.build import build_data, build_module
from lumen.runs.evaluate import restore
from lumen.training.callbacks import Guard
from lumen.training.checkpoint_io import found

TINY = [
    "size=32",
    "diffusion.weights=none",
    "batch=2",
    "data.images=6",
    "conditioning.vectors=60",
    "validation=2",
    "warmup=1",
    "wandb=disabled",
    "metrics=[]",
]
TINY += ["sampling.steps=1", "sampling.images=1", "every.log=1", "every.validate=9", "every.checkpoint=1"]


def told(capsys, command: list[str], code: int = 2) -> str:
    """What a command says on stderr after failing as it should."""
    assert main(command) == code
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("lumen: ") and said.endswith(".") and "Traceback" not in said
    return said


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A run of three steps; its tests put back what they change."""
    runs = tmp_path_factory.mktemp("runs")
    assert main(["train", "scenes", *TINY, "steps=3", f"runs={runs}"]) == 0
    return next(runs.glob("scenes/*/seed0"))


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("trian scenes", "lumen cannot 'trian'; did you mean 'train'?"),
        ("data chek scenes", "did you mean 'data check'?"),
        ("train", "one EXPERIMENT is needed, none was given; write: lumen train EXPERIMENT"),
        ("train scenes ade20k", "one EXPERIMENT is needed, not 2"),
        ("train scene", "did you mean 'scenes'?"),
        ("train scenes stepz=3", "did you mean 'steps'?"),
        ("train scenes backbone=dinov3", "did you mean 'dinov2'?"),
        ("train scenes backbone.patches=8", "did you mean 'patch'?"),
        ("train scenes backbone.patch=9", "must be Literal[8, 16], not 9"),
        ("train scenes steps=many", "steps cannot be 'many'"),
        ("train scenes size=30", "size=30 does not divide into the autoencoder's 4 px cells; choose 28 or 32"),
        ("train scenes size=36 backbone.patch=8", "the nearest are 32 x 32 and 40 x 40"),
        ("train scenes metrics=[lpips] measure.samples=1", "lpips compares 2 samples of an image"),
        ("train scenes metrics=[miou] measure.images=1", "leaves no other image"),
        ("train scenes conditioning.components=999", "choose 1 to 128"),
        ("train scenes conditioning.basis=none.safetensors", "is no layout basis"),
        ("train scenes backbone.size=tiny backbone.weights=published", "the tiny dino has no published weights"),
        ("train scenes backbone.weights=/nowhere", "'/nowhere', which is no folder"),
        ("train scenes diffusion.weights=nobody/nothing", "hf download nobody/nothing"),
        ("train coco_stuff data.root=/nowhere diffusion.weights=none", "/nowhere does not exist"),
        ("train scenes --fast", "no option '--fast'"),
        ("train scenes diffusion.size=small", "expected one of ['tiny', 'v1', 'v2']"),
        ("train scenes workers=-1", "workers must be 0 or more, not -1"),
        (
            "train scenes devices=3 validation=2",
            "3 processes need 3 images of the val split or more, and there are 2; raise validation",
        ),
        ("train scenes stop_after=50", "stop_after must be a time such as 3h50m or 90s, not 50"),
        ("train scenes best=fid", "expected one of ['val/loss']"),
        ("certify scenes steps=5", "steps=5 leaves nothing between two checkpoints; lumen certify needs 6 or more"),
        ("train scenes strategy=foo", "this machine cannot be used as asked"),
        ("ablate table1 base=scenes backbone=sd", "backbone is what the rows of table1 differ in"),
        ("ablate table1 base=scenes seed=3", "seed is what the rows of table1 differ in"),
        ("eval nowhere", "nowhere is no run folder"),
        ("sample nowhere photo.jpg", "a run, a photo and a prompt are needed"),
        ("layout base=scenes", "which photo?"),
        ("layout none.jpg base=scenes", "none.jpg does not exist"),
        ("ablate table9", "no table is called 'table9'"),
        ("leakage table9", "no table is called 'table9'"),
        ("leakage components base=scenes conditioning.components=3", "is what the rows of components differ in"),
        ("table table1 base=scenes seeds=none", "seeds must be a whole number above 0, not 'none'"),
        ("table table1 base=scenes lrr=1", "there is no key 'lrr'; did you mean 'lr'"),
        ("data render scenes out format=pascal", "pascal"),
        ("data render moon out", "lumen data render draws 'scenes'"),
    ],
)
def test_a_mistake_is_one_sentence_and_leaves_nothing(command, words, place, capsys):
    small = TINY if command.startswith("train scenes") else []
    assert words in told(capsys, [*command.split(), *(f for f in small if f.partition("=")[0] not in command)])
    begun = (".lock", "config.yaml", "id", "provenance.json")
    assert [p for p in place.rglob("*") if p.is_file() and p.name not in begun] == []


def test_a_run_folder_serves_one_process_at_a_time(place, capsys):
    with locks.claim(folder.place_of(load("scenes", [*TINY, "steps=1"]))):
        assert "is being written by another process" in told(capsys, ["train", "scenes", *TINY, "steps=1"])


def test_a_run_folder_serves_one_config(place, capsys):
    path = place / "mine.yaml"
    small = ["runs=runs", *TINY[:-1]]
    path.write_text("data: {name: scenes}\nbackbone: {name: dino, size: tiny, patch: 8, weights: none}\nlr: 1e-3\n"
                    "diffusion: {weights: none, size: tiny}\n")  # fmt: skip
    config = load(str(path), small)
    folder.settle(folder.place_of(config), config)
    path.write_text(path.read_text().replace("1e-3", "1e-4"))
    assert "lr was 0.001, is now 0.0001" in told(capsys, ["train", str(path), *small])


@pytest.mark.parametrize("runs", ["/dev/null/runs", "/proc/runs"])
def test_where_nothing_can_be_written_is_said(runs, place, capsys):
    assert "cannot be written" in told(capsys, ["train", "scenes", *TINY, "steps=1", f"runs={runs}"])


def test_a_full_disk_leaves_the_checkpoints_that_were_there(place, forking):
    limit = 300_000  # bytes of a file: enough for everything but a checkpoint
    command = [sys.executable, "-m", "lumen", "train", "scenes", *TINY, "steps=1"]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    assert done.returncode == 2 and "could not be written" in done.stderr.splitlines()[-1]
    assert not list(place.rglob("checkpoints/*")) and not list(place.rglob("*.part"))


@pytest.mark.parametrize("harm", ["cut", "empty", "code", "other"])
def test_a_damaged_checkpoint_is_passed_over(harm, trained, capsys):
    newest = found(trained / "checkpoints")[0]
    figures = (trained / "metrics.json").read_bytes()
    (trained / "metrics.json").unlink()
    damage(newest, harm)
    assert main(["train", "scenes", *TINY, "steps=3", f"runs={trained.parents[2]}"]) == 0
    said = capsys.readouterr().out
    assert f"passing over a checkpoint: {newest} cannot be used" in said and "continues at step 2" in said
    assert (trained / "metrics.json").read_bytes() == figures


def damage(path: Path, harm: str) -> None:
    if harm == "cut":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif harm == "empty":
        path.write_bytes(b"")
    elif harm == "code":
        path.write_bytes(pickle.dumps(Bomb()))
    else:
        torch.save({"weights": torch.zeros(1)}, path)


class Bomb:
    """A pickle that makes a file when it is loaded."""

    def __reduce__(self):
        return Path.touch, (Path("exploded"),)


def test_code_in_a_checkpoint_is_not_run(place, trained, capsys):
    kept = {path: path.read_bytes() for path in found(trained / "checkpoints")}
    for path in kept:
        damage(path, "code")
    said = told(capsys, ["eval", str(trained), "sampling.steps=2"])
    for path, content in kept.items():
        path.write_bytes(content)
    assert "none of the 2 checkpoints" in said and not Path("exploded").exists()


def built(flags: list[str]) -> LightningModule:
    config = load("scenes", [*TINY, *flags])
    return build_module(config, build_data(config))


def test_a_checkpoint_serves_its_own_backbone_only(trained, capsys):
    path = found(trained / "checkpoints")[0]
    for flags, words in (
        (["backbone=sd"], "belongs to another configuration"),
        (["conditioning.components=3"], "belongs to another configuration"),
        (["backbone.facet=key"], "was fitted on other features"),
    ):
        with pytest.raises((BadCheckpoint, BasisMismatch), match=words):
            restore(built(flags), path)
    assert "backbone was decided when" in told(capsys, ["eval", str(trained), "backbone=sd"])


def test_a_checkpoint_serves_its_own_base_model_only():
    module = built([])
    checkpoint = {"state_dict": module.state_dict()}
    module.on_save_checkpoint(checkpoint)
    module.on_load_checkpoint(checkpoint)
    checkpoint["frozen"] = checkpoint["frozen"] | {"unet": "another"}
    with pytest.raises(BadCheckpoint, match="was trained on another unet"):
        module.on_load_checkpoint(checkpoint)


def test_a_loss_that_is_no_number_stops_the_run(place, monkeypatch, capsys):
    loss = ControlledDiffusion.loss

    def broken(self, image, caption, layout, keys, timesteps=None):
        return loss(self, image, caption, layout, keys, timesteps) * (float("nan") if keys[0][-1] == 2 else 1)

    monkeypatch.setattr(ControlledDiffusion, "loss", broken)
    assert "the loss is no longer a finite number" in told(capsys, ["train", "scenes", *TINY, "steps=4"])
    assert [p.name for p in found(next(place.rglob("checkpoints")))] == ["step00000002.ckpt", "step00000001.ckpt"]


def test_a_frozen_network_that_moves_stops_the_run():
    network = torch.nn.Linear(3, 3)
    guard, trainer = Guard({"unet": network}, 1), Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    guard.on_fit_start(trainer, LightningModule())
    guard.on_validation_start(trainer, LightningModule())
    with torch.no_grad():
        network.weight[0, 0] += 1e-6
    with pytest.raises(Diverged, match="by step 0 the frozen unet had changed"):
        guard.on_validation_start(trainer, LightningModule())


def test_every_mistake_has_a_class_that_says_what_it_is():
    classes = Mistake.__subclasses__()
    assert len(classes) > 5 and all(c.__doc__ for c in classes)
