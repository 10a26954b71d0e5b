"""Console: announcements, and the log of a run."""

import io
import sys
from pathlib import Path

import pytest

from lumen.core.console import LOG_NAME, RunLog, announce, console


def logged(*texts: str, path: Path) -> list[str]:
    """Return the lines of a log after its header."""
    log = RunLog(path, "lumen train scenes")
    for text in texts:
        log.record(text)
    header, *lines = path.read_text(encoding="utf-8").splitlines()
    assert header.startswith("$ lumen train scenes  # 20")
    return lines


@pytest.mark.parametrize(
    ("texts", "lines"),
    [
        (["starts\n", "val/loss  0.5\n"], ["starts", "val/loss  0.5"]),
        (["one ", "line", "\n", "\n"], ["one line", ""]),
        (["\rEpoch 0: 1%", "\rEpoch 0: 2%", "\rEpoch 0: 100%\n", "done\n"], ["Epoch 0: 100%", "done"]),
        (["\r\x1b[2Ktraining 1/9", "\r\x1b[2Ktraining 2/9", "\r\x1b[2Ka note\ntraining 3/9"], ["a note"]),
        (["\r\x1b[2K\x1b[1A\x1b[2Ka note\ntraining 3/9\nloss 0.5"], ["a note"]),
        (["\x1b[3Astep 2\nloss 0.4\n"], []),
        (["\x1b[31mred\x1b[0m\n", "\x1b]0;title\aafter\n", "dos\r\n"], ["red", "after", "dos"]),
        (["\x1b[?25l", "\x1b[?25h\n"], []),
        (["häßlich 猫 \udce4\n"], ["häßlich 猫 \\udce4"]),
    ],
)
def test_console_log_has_lines_without_redraws(texts, lines, tmp_path):
    assert logged(*texts, path=tmp_path / LOG_NAME) == lines


def test_console_log_is_written_line_by_line(tmp_path):
    log = RunLog(tmp_path / LOG_NAME, "lumen eval RUN")
    log.record("a line\nthe beginning of ")
    assert (tmp_path / LOG_NAME).read_text().endswith("a line\n")  # also if the process is killed now


def test_console_log_keeps_streams_apart(tmp_path):
    log = RunLog(tmp_path / LOG_NAME, "lumen")
    for text, stream in (("train", sys.stdout), ("a warn", sys.stderr), ("ing\n", sys.stdout), ("ing\n", sys.stderr)):
        log.record(text, stream)
    assert (tmp_path / LOG_NAME).read_text().splitlines()[1:] == ["training", "a warning"]


def test_console_copies_both_streams_of_a_command_alone(tmp_path, monkeypatch, capsys):
    console.open_log(tmp_path)  # Python calls LUMEN: its streams are left as they are
    assert list(tmp_path.iterdir()) == []
    cached, out = sys.stderr, sys.stdout
    for command in ("lumen train a", "lumen train b"):
        with console.run(command, is_quiet=False, is_verbose=False):
            console.open_log(tmp_path)
            print("starts")
            cached.write("a library's remark\n")
    print("after")
    lines = (tmp_path / LOG_NAME).read_text().splitlines()
    assert [line.partition("  #")[0] for line in lines] == [
        line for name in "ab" for line in (f"$ lumen train {name}", "starts", "a library's remark")
    ]
    assert sys.stdout is out and capsys.readouterr().out == "starts\nstarts\nafter\n"


def test_console_writes_no_log_twice(tmp_path, monkeypatch):
    with open(tmp_path / LOG_NAME, "a+") as file:  # as the output of a sweep's run
        monkeypatch.setattr(sys, "stdout", file)
        with console.run("lumen train scenes", is_quiet=False, is_verbose=False):
            console.open_log(tmp_path)
            print("starts")
    assert (tmp_path / LOG_NAME).read_text() == "starts\n"


def test_console_does_without_a_log_that_cannot_be_written(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    with console.run("lumen train scenes", is_quiet=False, is_verbose=False):
        console.open_log(tmp_path / "nowhere")
        print("starts")
    assert sys.stdout.getvalue() == "starts\n"


@pytest.mark.parametrize("is_quiet", [False, True])
def test_console_announces_unless_it_is_quiet(is_quiet, capsys):
    with console.run("lumen train scenes", is_quiet, is_verbose=False):
        announce("starts")
    assert capsys.readouterr().out == ("" if is_quiet else "starts\n")
