"""Check of a data set: the same report on any number of cores, progress beside it, an end by Ctrl-C."""

import os

import pytest

from datamodules.coco_stuff import CocoStuff
from lumen.__main__ import main
from lumen.core import parallel
from lumen.core.progress import Phase
from lumen.data import integrity


@pytest.fixture
def damaged(tmp_path, monkeypatch):
    """Data set with files that are cut off or missing, whose images are checked two at a time."""
    CocoStuff.fake(tmp_path)
    images = sorted(tmp_path.glob("images/train2017/*.jpg"))
    for path in images[1:5:3]:
        path.write_bytes(path.read_bytes()[:200])
    images[2].unlink()
    monkeypatch.setattr(parallel, "CHUNK_SIZE", 2)
    return tmp_path


def set_cores(count: int, monkeypatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(count)), raising=False)


def test_check_reports_the_same_on_any_number_of_cores(damaged, monkeypatch, capsys):
    outputs = []
    for count in (1, 2, 5):
        set_cores(count, monkeypatch)
        assert main(["data", "check", "coco_stuff", f"root={damaged}", "--all"]) == 1
        outputs.append(capsys.readouterr())
    assert outputs[0] == outputs[1] == outputs[2] and outputs[0].out.count("problem:") == 3
    assert not outputs[0].err  # of so few images


def test_check_shows_its_progress_beside_the_report(damaged, monkeypatch, capsys):
    monkeypatch.setattr(integrity, "IMAGES_PER_LINE", 3)
    assert main(["data", "check", "coco_stuff", f"root={damaged}"]) == 1
    output = capsys.readouterr()
    assert [line.partition(" images, ")[0] for line in output.err.splitlines()] == ["checking 3/8", "checking 6/8"]
    assert "checking" not in output.out


@pytest.mark.parametrize("count", [1, 2])
def test_check_ends_by_ctrl_c_without_a_report(count, damaged, monkeypatch, capsys):
    def interrupt(phase: Phase) -> None:
        raise KeyboardInterrupt

    set_cores(count, monkeypatch)
    monkeypatch.setattr(Phase, "advance", interrupt)
    assert main(["data", "check", "coco_stuff", f"root={damaged}"]) == 130
    assert tuple(capsys.readouterr()) == ("", "lumen: interrupted.\n")
