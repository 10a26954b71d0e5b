"""Paths of users: ~ is the home directory wherever a path may stand."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lumen.__main__ import main
from lumen.config.experiment import load
from lumen.core.errors import Mistake
from lumen.core.paths import user_path
from lumen.core.registry import datamodules
from lumen.data.source import LoaderConfig
from lumen.features.pretrained import resolve_weights
from lumen.runs.directory import run_directory

PHOTO = ["base=scenes", "conditioning=canny", "size=32"]


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """A home directory beside the working directory."""
    folder = tmp_path / "home"
    (tmp_path / "here").mkdir()
    folder.mkdir()
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.chdir(tmp_path / "here")
    return folder


@pytest.mark.parametrize("name", ["~draft.png", "~no-such-user/x", "a~", "./~", "x/~/y"])
def test_path_without_a_home_is_unchanged(name, home):
    assert user_path(name) == Path(name)


def test_path_of_runs_is_in_the_home_directory_and_names_the_same_run(home):
    in_home = run_directory(load("scenes", ["runs=~/lumen", "lr=1e-4"]))
    assert in_home == home / "lumen" / run_directory(load("scenes", ["lr=1e-4"])).relative_to("runs")
    (home / "mine.yaml").write_text("data: scenes\nruns: ~/other\n")
    assert run_directory(load("~/mine.yaml")) == home / "other/mine/default/seed0"
    assert main(["cache", "ls", "runs=~/lumen"]) == 0 and main(["show", "~/mine.yaml"]) == 0


def test_path_of_a_data_set_and_of_its_captions_and_questions(home):
    datamodules.factory("coco_stuff").fake(home / "coco")
    stems = [path.stem for path in (home / "coco/images").rglob("*.jpg")]
    (home / "captions.json").write_text(json.dumps(dict.fromkeys(stems, "häßlich")), encoding="utf-8")
    entry = {"caption": "häßlich", "question": "?", "choices": ["yes"], "answer": "yes"}
    (home / "questions.json").write_text(json.dumps([entry]), encoding="utf-8")
    config = LoaderConfig(questions="~/questions.json")
    source = datamodules.build("coco_stuff", root="~/coco", captions="~/captions.json", loader_config=config)
    assert source.records("train")[0].captions == ("häßlich",) and source.num_questioned() > 0


def test_path_of_weights(home):
    (home / "weights").mkdir()
    assert resolve_weights("~/weights", "dino", None, None, []) == home / "weights"
    with pytest.raises(Mistake):
        resolve_weights("~no-such-user/weights", "dino", None, None, [])


def test_path_of_a_photo_and_of_its_layout(home):
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(home / "photo.png")
    assert main(["layout", "~/photo.png", "out=~/layouts/photo.png", *PHOTO]) == 0
    assert (home / "layouts/photo.png").exists()
    (home / "photo.png").rename("~draft.png")
    assert main(["layout", "~draft.png", "out=~out.png", *PHOTO]) == 0 and Path("~out.png").exists()


@pytest.mark.parametrize(
    "command",
    [
        ["eval", "~/nowhere"],
        ["sample", "~/nowhere", "~/photo.png", "~ a prompt"],
        ["layout", "~/none.png", "base=scenes", "conditioning=canny"],
        ["layout", "~/none.png", "base=scenes", "conditioning.basis=~/none.safetensors", "runs=~/r"],
        ["train", "coco_stuff", "data.root=~/nowhere", "runs=~/lumen", "diffusion.weights=none"],
        ["train", "coco_stuff", "data.root=~/nowhere", "diffusion.weights=~/none", "runs=~/lumen"],
        ["train", "~/none.yaml"],
        ["data", "check", "coco_stuff", "root=~/nowhere"],
        ["data", "check", "coco_stuff", "root=/nowhere", "captions=~/none.json"],
        ["questions", "coco_stuff", "data.root=~/nowhere", "out=~/questions.json"],
        ["cache", "build", "coco_stuff", "data.root=~/nowhere", "runs=~/lumen"],
        ["table", "table1", "base=scenes", "runs=~/lumen"],
    ],
    ids=lambda command: " ".join(command),
)
def test_path_makes_no_folder_called_tilde(command, home, capsys):
    assert main(command) in (0, 1, 2)
    assert list(Path().rglob("*")) == []
    assert not list((home / "lumen").rglob("seed*"))
