"""Every lumen command that the README prints is run, on small networks; .ci/run runs its two pip commands."""

import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lumen.__main__ import VERBS, main
from lumen.core.registry import datamodules

README = Path(__file__).parents[1] / "README.md"
SMALL = [
    "size=32",
    "diffusion.weights=none",
    "batch=2",
    "conditioning.vectors=60",
    "validation=2",
    "workers=0",
    "steps=1",
    "wandb=disabled",
    "metrics=[]",
]
SMALL += ["sampling.steps=1", "sampling.images=1", "devices=1"]
UNTRAINED = ["backbone.size=tiny", "backbone.weights=none", "diffusion.weights=none", "diffusion.size=tiny"]


def commands() -> list[str]:
    blocks = re.findall(r"```sh\n(.*?)```", README.read_text(), re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line for line in lines if line.startswith("lumen ")]


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """A folder with all that the README takes for granted: a photo, a data set, a finished run."""
    place = tmp_path_factory.mktemp("readme")
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8)).save(place / "photo.jpg")
    assert main(["data", "render", "scenes", str(place / "coco"), "format=coco_stuff", "size=32", "train=6"]) == 0
    assert main(["train", "scenes", *SMALL, "data.images=6", f"runs={place / 'made'}"]) == 0
    made = next((place / "made").glob("scenes/*/seed0"))
    shutil.copytree(made, place / "runs" / "scenes" / "default" / "seed0")
    return place


@pytest.mark.parametrize("command", commands())
def test_a_command_of_the_readme_runs(command, world, monkeypatch, capsys):
    monkeypatch.chdir(world)
    words = shlex.split(command.replace("/data/coco", "coco"), comments=True)[1:]
    if words[0] == "train":
        words += [*SMALL, *([] if words[1] == "scenes" else UNTRAINED)]
    elif words[0] == "ablate":
        words += ["--print"]
    elif words[0] == "leakage":
        words += [*SMALL, "data.images=6", "measure.images=2"]
    assert main(words) == 0
    told = capsys.readouterr().out
    assert told
    if "--cost" in words:
        shown = re.search(r"--cost\n```\n\n```\n(.*?)```", README.read_text(), re.DOTALL)[1]
        there, shown = ({" ".join(line.split()) for line in text.splitlines()} for text in (told, shown))
        assert len(shown) == 4 and shown <= there


def test_the_readme_shows_every_verb():
    shown = " ".join(commands()) + README.read_text()
    assert all(f"lumen {verb}" in shown for verb in VERBS)
    assert all(f"`{name}`" in shown for name in datamodules.names())


def test_every_file_that_the_readme_points_to_is_there():
    links = re.findall(r"\]\(([^)#]+)\)", README.read_text())
    assert links and all((README.parent / link).exists() for link in links)
