"""Progress of trials: the line of a finished run, and the table in a terminal of any size."""

import os
import re
from pathlib import Path

import pytest

from lumen.sweeps import progress
from lumen.sweeps.progress import ProgressTable, format_metrics
from lumen.sweeps.trial import Length, Trial


@pytest.mark.parametrize(
    ("results", "words"),
    [
        ({}, []),
        ({"val/loss": 0.0651, "steps": 4}, ["val/loss 0.0651"]),
        (
            {"val/loss": 0.1, "test/miou": 0.6921, "test/miou_95": [0.6, 0.7], "test/miou/sky": 0.9, "real/miou": 0.9},
            ["miou 0.692"],
        ),
        ({"test/miou": 0.5, "test/lpips-scenes": 0.3187}, ["miou 0.5", "lpips-scenes 0.319"]),
    ],
)
def test_finished_run_shows_its_metrics(results, words):
    assert format_metrics(results) == words


def trial_of(name: str, directory: Path) -> Trial:
    return Trial(name, {directory: "lumen train scenes"}, {directory: Length(100, 4)})


@pytest.fixture
def trials(tmp_path) -> list[Trial]:
    """Six trials that wait; the first name is wide, and the second holds what would move a cursor."""
    names = ["狗" * 40, "a\x1b[2Jb", "C", "D", "E", "F"]
    return [trial_of(name, tmp_path / str(i)) for i, name in enumerate(names)]


@pytest.fixture
def screen(monkeypatch, capsys):
    """Function that draws a table anew in a terminal of a size, and returns what was printed."""

    def draw(table: ProgressTable, columns: int, lines: int) -> str:
        monkeypatch.setattr(progress, "can_redraw", lambda stream: True)
        monkeypatch.setattr(progress.shutil, "get_terminal_size", lambda: os.terminal_size((columns, lines)))
        table.next_redraw = 0
        table.refresh()
        return capsys.readouterr().out

    return draw


def width_of(line: str) -> int:
    return sum(2 if char == "狗" else 1 for char in line)


def test_progress_table_fits_into_a_terminal_that_changes_its_size(trials, screen):
    table = ProgressTable(trials)
    first = screen(table, 80, 24)
    assert not re.search(r"\x1b\[\d+A", first) and first.count("\n") == 7
    second = screen(table, 20, 24)
    # Six lines of 39 columns, which the terminal breaks into two rows of 20, and one of 12.
    assert second.startswith("\x1b[13A\x1b[J")
    assert all(width_of(line) < 20 for line in second.replace("\x1b[13A\x1b[J", "").splitlines())
    assert screen(table, 160, 24).startswith("\x1b[7A\x1b[J")


def test_progress_table_shows_what_runs_or_failed_if_there_are_more_rows_than_lines(trials, screen):
    table = ProgressTable(trials)
    trials[4].state, trials[5].state, trials[5].failures = "running", "failed", {"lumen train": "no disk"}
    trials[3].state = "done"
    lines = screen(table, 60, 8).removeprefix("\x1b[J").splitlines()
    assert [line[0] for line in lines] == ["E", "F", "2"] and lines[1].endswith("failed: no disk")
    assert len(screen(table, 60, 6).splitlines()) <= 5
