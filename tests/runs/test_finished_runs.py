"""Command of a run that has finished: its data set is the one that the run recorded, or the command is refused."""

import shutil

import pytest
import yaml

from datamodules.coco_stuff import CocoStuff
from lumen.__main__ import main
from lumen.config.experiment import dump, load
from lumen.core.files import write, write_json
from lumen.data.source import DataSource
from lumen.runs.data import build_source
from lumen.runs.directory import run_directory

PROVENANCE = {"command": "", "commit": None, "hardware": {"gpus": [], "cpus": 1, "machine": ""}, "versions": {}}


def command(name, root, *flags):
    return ["train", name, *([f"data.root={root}"] if root else []), *flags]


def finish_run(name, root):
    """Write what a finished run leaves behind."""
    config = load(name, [f"data.root={root}"] if root else [])
    directory = run_directory(config)
    write(directory / "config.yaml", yaml.safe_dump(dump(config)))
    write_json(directory / "provenance.json", PROVENANCE | {"data": build_source(config).fingerprint()})
    write_json(directory / "metrics.json", {"val/loss": 0.5, "test/miou": 0.5})
    return directory


@pytest.fixture
def finished(workdir):
    """Name of a data set on disk on which a run has finished."""
    CocoStuff.fake("data")
    finish_run("coco_stuff", "data")
    return "coco_stuff"


def test_finished_run_takes_its_recorded_root_without_an_index(finished, workdir, monkeypatch, capsys):
    monkeypatch.setattr(DataSource, "records", None)
    assert main(command(finished, "data")) == 0
    assert "is finished" in capsys.readouterr().out
    assert main(command(finished, "data", "workers=2", "runs=runs")) == 0


def test_finished_run_takes_its_data_in_another_place(finished, workdir, capsys):
    shutil.copytree("data", "moved")
    for root in ("moved", workdir / "data", "./data"):
        assert main(command(finished, root)) == 0
    assert capsys.readouterr().out.count("is finished") == 3


@pytest.mark.parametrize("root", ["other", "empty", "nowhere", "data"])
def test_finished_run_refuses_other_data(root, finished, workdir, capsys):
    shutil.copytree("data", "other")
    for image in (workdir / "other").rglob("*.[jp][pn]g"):
        image.write_bytes(image.read_bytes() + b"0")
    (workdir / "empty").mkdir()
    shutil.rmtree("data")
    assert main(command(finished, root)) == 2
    out, err = capsys.readouterr()
    assert "is finished" not in out and len(err.splitlines()) == 1 and err.startswith("lumen: ")
    assert ("started on other data" if root == "other" else root) in err


def test_finished_run_of_rendered_data_needs_no_root(workdir, capsys):
    finish_run("scenes", None)
    assert main(command("scenes", None)) == 0 and "is finished" in capsys.readouterr().out
