"""Progress: bars in a terminal that leave text alone, and the same lines in any file."""

import re
import sys
from typing import TextIO

import pytest

from lumen.core import progress
from lumen.core.console import LOG_NAME, console
from lumen.core.progress import Phase, format_duration


@pytest.fixture
def every_redraw(monkeypatch):
    """Bars are redrawn at each update."""
    monkeypatch.setattr(progress, "REDRAW_SECONDS", 0)


@pytest.fixture
def file(tmp_path):
    """File that is open to be written and read."""
    with open(tmp_path / "log.txt", "w+", encoding="utf-8") as file:
        yield file


def run_phase(stream: TextIO | None = None, is_shown: bool = True, total: int = 2000) -> None:
    with Phase("training", total, "images", every=1000, stream=stream, is_shown=is_shown) as phase:
        for done in range(1, total + 1):
            phase.update(done, "loss 0.5")


def content(file: TextIO) -> str:
    file.seek(0)
    return re.sub(r"\d+ s", "# s", file.read())


def test_progress_in_a_file_is_a_line_per_interval(file):
    run_phase(file)
    assert content(file).splitlines() == [
        "training 1,000/2,000 images, loss 0.5, # s left",
        "training 2,000/2,000 images, loss 0.5, # s",
    ]


@pytest.mark.parametrize("reason", ["quiet", "other rank", "nothing to do"])
def test_progress_shows_nothing(reason, file, monkeypatch):
    monkeypatch.setattr(console, "is_quiet", reason == "quiet")
    run_phase(file, is_shown=reason != "other rank", total=0 if reason == "nothing to do" else 2000)
    assert content(file) == ""


def test_progress_of_a_phase_that_ends_early_leaves_no_last_line(file):
    with pytest.raises(KeyboardInterrupt), Phase("training", 10, stream=file) as phase:
        phase.advance(4)
        raise KeyboardInterrupt
    assert content(file) == ""


def test_progress_counts_parts_of_an_earlier_command_but_not_their_time(file):
    phase = Phase("training", 600, done=300, stream=file)
    assert phase.details == ()
    phase.start -= 10
    phase.update(400)
    assert phase.text == "training 400/600" and phase.details == ("20 s left",)


@pytest.mark.parametrize("terminal", [40, 80, 160], indirect=True)
def test_progress_in_a_terminal_stands_below_the_text(terminal, every_redraw):
    long = "a long text, " * 12
    with terminal.attached():
        print("first")
        with Phase("training", 600) as training:
            training.update(210, "loss 0.0651", "43.1 images/s", "1.21 GiB")
            print(long, "of several lines", sep="\n")
            print("a message", file=sys.stderr)
            training.update(220, *training.facts)
            with Phase("validating", 8, "batches") as validation:
                validation.advance()
                validation.rename("generating previews")
            training.update(600)
        print("last")
    lines = [re.sub(r"\d+ s", "# s", line) for line in terminal.lines()]
    broken = [long[i : i + terminal.columns].rstrip() for i in range(0, len(long), terminal.columns)]
    expected = ["first", *broken, "of several lines", "a message", "training 600/600, # s", "last"]
    assert lines == expected
    has_bar = re.search(r"training 210/600 \x1b\[[\d;]*m━", terminal.output)
    assert "training 210/600" in terminal.output and bool(has_bar) == (terminal.columns > 40)


def test_progress_leaves_the_cursor_visible_and_the_streams_as_they_were(terminal, every_redraw):
    with terminal.attached():
        writers = [stream.write for stream in (sys.stdout, sys.stderr)]
        run_phase(total=3)
        assert [stream.write for stream in (sys.stdout, sys.stderr)] == writers
    assert terminal.lines()[-1].startswith("training 3/3") and "\x1b[?25l" not in terminal.output


def test_progress_is_no_part_of_what_is_printed(terminal, every_redraw, tmp_path, monkeypatch):
    """The log of a run holds the lines that are printed, and no redraw of bars."""
    with console.run("lumen train scenes", False, False), terminal.attached():
        console.open_log(tmp_path)
        run_phase(total=3)
    log = (tmp_path / LOG_NAME).read_text().splitlines()
    assert len(log) == 2 and log[1].startswith("training 3/3 images, loss 0.5")
    assert terminal.lines()[-1] == log[1]


def test_progress_message_after_bars_has_a_line_of_its_own(terminal, every_redraw):
    with terminal.attached():
        with pytest.raises(KeyboardInterrupt), Phase("training", 10), Phase("validating", 10) as phase:
            phase.advance()
            raise KeyboardInterrupt
        unclosed = Phase("training", 10)
        unclosed.advance()
        print("lumen: interrupted.", file=sys.stderr)
        unclosed.close()
    assert terminal.lines() == ["lumen: interrupted."]


def test_progress_without_colour_has_none(terminal, every_redraw, monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    with terminal.attached():
        run_phase(total=3)
    assert terminal.lines() and "━" in terminal.output
    assert not re.search(r"\x1b\[[\d;]*(3[0-8]|9[0-7])[;m]", terminal.output)


def test_progress_in_a_dumb_terminal_is_lines(terminal, monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    with terminal.attached():
        run_phase()
    assert len(terminal.lines()) == 2 and "\x1b" not in terminal.output


def test_progress_survives_the_loss_of_its_terminal(terminal, every_redraw):
    with terminal.attached(), Phase("training", 10) as phase:
        phase.bars.console.file.write = lost
        phase.advance()
        print("on")
    assert "on" in terminal.lines()[-1]


def lost(text: str) -> int:
    raise OSError("no such terminal")


def test_progress_durations_are_in_a_unit_of_their_size():
    assert [format_duration(seconds) for seconds in (3.2, 600, 7200)] == ["3 s", "10 min", "2.0 h"]
