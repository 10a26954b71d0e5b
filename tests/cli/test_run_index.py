"""Commands for all runs: the list, as text and as JSON, and the removal of checkpoints."""

import io
import json
import os

import pytest
import yaml

from lumen.__main__ import main
from lumen.cli import run_index
from lumen.cli.columns import format_columns
from lumen.config.experiment import dump, load
from lumen.core.files import write, write_json
from lumen.runs.directory import run_directory


@pytest.fixture
def runs(workdir):
    """Two finished runs with two checkpoints each, one of them damaged, and one that was stopped."""
    for number in range(3):
        config = load("scenes", [f"conditioning.components={number + 1}"])
        directory = run_directory(config)
        write(directory / "config.yaml", yaml.safe_dump(dump(config)))
        for step in (1, 2):
            write(directory / "checkpoints" / f"step{step:08d}.ckpt", b"0")
        if number:
            write_json(directory / "metrics.json", {"test/miou": 0.5, "val/loss": 0.25, "steps": 600})
    write_json(directory / "checkpoints" / "step00000002.json", {"sha256": "0"})
    return workdir / "runs"


class Terminal(io.StringIO):
    """Standard input that is a terminal."""

    def isatty(self) -> bool:
        return True


def test_runs_command_lists_runs_as_text_and_json(runs, capsys):
    assert main(["runs"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4 and lines[0].split()[:4] == ["run", "state", "step", "miou"]
    assert all("lumen train scenes conditioning.components=" in line for line in lines[1:])
    assert main(["runs", "conditioning.components=2,3", "state=finished", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert {run["settings"]["conditioning.components"] for run in listed} == {2, 3}
    assert all(run["metrics"] == {"miou": 0.5, "val/loss": 0.25} for run in listed)


@pytest.mark.parametrize("width", [80, 100, 160])
def test_runs_command_fits_a_terminal(width, runs, monkeypatch, capsys):
    size = os.terminal_size((width, 24))
    monkeypatch.setattr(run_index.shutil, "get_terminal_size", lambda: size)
    selected = run_index._select([], {}, run_index.list_runs)
    lines = run_index._format(selected, width)
    assert max(map(len, lines)) <= width and all("finished" in line for line in lines[1:3])


def test_runs_command_says_that_there_are_none_and_names_a_missing_directory(workdir, capsys):
    assert main(["runs"]) == 0 and "no runs yet" in capsys.readouterr().out
    assert main(["runs", "runs=elsewhere"]) == 2 and main(["runs", "scenes"]) == 2


def test_runs_prune_asks_and_leaves_what_is_damaged(runs, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", io.StringIO())
    assert main(["runs", "prune"]) == 2 and "--yes" in capsys.readouterr().err
    for answer in ("n\n", ""):  # Ctrl-D
        monkeypatch.setattr("sys.stdin", Terminal(answer))
        assert main(["runs", "prune"]) == 0 and "nothing was removed" in capsys.readouterr().out
    assert len(list(runs.rglob("*.ckpt"))) == 6
    monkeypatch.setattr("sys.stdin", Terminal("y\n"))
    assert main(["runs", "prune"]) == 1 and "is left as it is" in capsys.readouterr().out
    assert len(list(runs.rglob("*.ckpt"))) == 5
    assert main(["runs", "prune", "conditioning.components=2", "--yes"]) == 0
    assert "no finished run" in capsys.readouterr().out


def test_columns_cut_the_end_of_the_last_and_the_middle_of_the_first():
    rows = [["run", "n", "command"], ["a" * 40, "1", "b" * 60], ["\x1b[31m", "20", ""]]
    assert max(map(len, format_columns(rows, None, numbers=[1]))) == 40 + 2 + 2 + 2 + 60
    wide, narrow = format_columns(rows, 80, numbers=[1]), format_columns(rows, 40, numbers=[1])
    assert wide[1].endswith("b…") and len(wide[1]) == 80 and "…" in narrow[1][:40] and len(narrow[1]) <= 40
    assert "\x1b" not in "".join(wide) and wide[1].index(" 1 ") == wide[2].index("20")
