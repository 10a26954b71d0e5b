"""History of a run that resumes: what is lost of it is said, and what cannot be read is removed."""

import json
import os
from pathlib import Path

import pytest
import torch

from lumen.core.errors import Mistake, RunMissing
from lumen.core.locks import lock_directory
from lumen.training.checkpoint_io import AtomicCheckpointIO
from lumen.training.history import read_history
from lumen.training.loggers import JSONLLogger


def line(step: int, name: str = "train/loss") -> str:
    return json.dumps({"step": step, name: 1.0}) + "\n"


def lines(*steps: int) -> str:
    return "".join(map(line, steps))


NUL = "\0" * 100
# Content before a run resumes at step 8, the steps that stay, and what is said to be lost of one line per step.
HISTORIES = {
    "complete": (lines(*range(8)), range(8), None),
    "longer than the checkpoint": (lines(*range(12)), range(8), None),
    "cut short in a line of a later step": (lines(*range(10)) + line(10)[:9], range(8), None),
    "cut short in the line of a step": (lines(*range(7)) + line(7)[:9], range(7), "steps 7 is lost"),
    "cut short before a line break": (lines(*range(8))[:-1], range(8), None),
    "cut short between two lines": (lines(*range(5)), range(5), "steps 5 to 7 is lost"),
    "empty": ("", (), "steps 0 to 7 is lost"),
    "missing": (None, (), "steps 0 to 7 is lost"),
    "zeros alone": (NUL, (), "steps 0 to 7 is lost"),
    "zeros at its end": (lines(0, 1, 2) + NUL, range(3), "steps 3 to 7 is lost"),
    "zeros beyond its end": (lines(*range(8)) + NUL, range(8), "removed"),
    "zeros at its start": (NUL + lines(*range(3, 8)), range(3, 8), "steps 0 to 2 is lost"),
    "zeros before a line": (lines(0, 1) + NUL + lines(5, 6, 7), (0, 1, 5, 6, 7), "steps 2 to 4 is lost"),
    "zeros within a line": (lines(0, 1) + line(2)[:4] + NUL + line(5)[9:] + lines(6, 7), (0, 1, 6, 7), "steps 2 to 5"),
    "zeros twice": (NUL + lines(2, 3) + NUL + lines(6, 7), (2, 3, 6, 7), "steps 0 to 1 and 4 to 5 is lost"),
    "zeros after the step": (lines(*range(9)) + NUL, range(8), None),
    "other text": (lines(0, 1) + "no line\n" + lines(3, 4, 5, 6, 7), (0, 1, 3, 4, 5, 6, 7), "steps 2 is lost"),
    "no keys and values": (lines(0, 1) + "[2]\n" + lines(*range(2, 8)), range(8), "removed"),
    "no step": (lines(0, 1) + '{"a": 1}\n{"step": null}\n' + lines(*range(2, 8)), range(8), "removed"),
    "no text": (lines(0, 1) + "\udcff\udcfe\n" + lines(*range(2, 8)), range(8), "removed"),
}


@pytest.mark.parametrize("name", HISTORIES)
def test_history_that_is_damaged_is_mended(name, tmp_path, capsys):
    content, steps, damage = HISTORIES[name]
    path = tmp_path / "metrics.jsonl"
    if content is not None:
        path.write_bytes(content.encode(errors="surrogateescape"))
    logger = JSONLLogger(path, 8, interval=1)
    output = capsys.readouterr().out
    assert (output == "") if damage is None else (damage in output and str(path) in output and output.count("\n") == 1)
    logger.log_metrics({"train/loss": 1.0}, 8)
    assert path.read_text() == lines(*steps, 8)
    JSONLLogger(path, 8)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(("interval", "last", "is_lost"), [(5, 4, False), (5, 2, True), (4, 3, True), (8, -1, True)])
def test_history_may_end_less_than_an_interval_before_the_checkpoint(interval, last, is_lost, tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text(lines(*range(last + 1)))
    assert bool(read_history(path, 8, interval)[1]) == is_lost


def test_history_of_a_run_that_starts_is_complete(tmp_path, capsys):
    path = tmp_path / "metrics.jsonl"
    path.write_text(NUL + lines(0, 1))
    JSONLLogger(path, 0, 1)
    assert path.read_text() == "" and capsys.readouterr().out == ""


@pytest.fixture
def events(monkeypatch) -> list[str]:
    """What is flushed and renamed, in order."""
    events, fsync, replace = [], os.fsync, os.replace

    def record_fsync(descriptor: int) -> None:
        events.append(f"flush {Path(os.readlink(f'/proc/self/fd/{descriptor}')).name}")
        fsync(descriptor)

    def record_replace(source: Path, target: Path) -> None:
        events.append(f"rename {Path(target).name}")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", record_fsync)
    monkeypatch.setattr(os, "replace", record_replace)
    return events


def save(history: JSONLLogger, step: int) -> Path:
    path = history.path.parent / "checkpoints" / f"step{step:08d}.ckpt"
    AtomicCheckpointIO(history.flush).save_checkpoint({"global_step": step, "x": torch.zeros(2)}, path)
    return path


def test_history_is_flushed_before_a_checkpoint_gets_its_name(tmp_path, events):
    history = JSONLLogger(tmp_path / "metrics.jsonl", 0)
    save(history, 0)
    assert "flush metrics.jsonl" not in events  # there is none
    for step in range(1, 4):
        events.clear()
        history.log_metrics({"train/loss": 1.0}, step)
        assert events == []  # a step does not wait for the disk
        name = save(history, step).name
        order = [events.index(event) for event in ("flush metrics.jsonl", f"flush {tmp_path.name}", f"rename {name}")]
        assert order == sorted(order)


def remove(path: Path) -> None:
    path.unlink()


def shorten(path: Path) -> None:
    path.write_text("")


def replace_by_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("harm", [remove, shorten, replace_by_directory])
def test_checkpoint_is_refused_if_its_history_cannot_be_written(harm, tmp_path, capsys):
    history = JSONLLogger(tmp_path / "metrics.jsonl", 0)
    history.log_metrics({"train/loss": 1.0}, 0)
    harm(history.path)
    history.log_metrics({"train/loss": 1.0}, 1)
    assert "training continues" in capsys.readouterr().out
    with pytest.raises(Mistake, match=r"metrics\.jsonl could not be written"):
        save(history, 2)
    assert list(tmp_path.rglob("checkpoints/*")) == list(tmp_path.rglob(".*.part")) == []


def test_history_of_a_moved_run_ends_the_run(tmp_path):
    with lock_directory(tmp_path / "run"):
        history = JSONLLogger(tmp_path / "run" / "metrics.jsonl", 0)
        history.log_metrics({"train/loss": 1.0}, 0)
        (tmp_path / "run").rename(tmp_path / "moved")
        with pytest.raises(RunMissing):
            history.log_metrics({"train/loss": 1.0}, 1)
    assert not (tmp_path / "run").exists() and (tmp_path / "moved" / "metrics.jsonl").read_text() == lines(0)
