"""Progress of the phases of a command: bars at the bottom of a terminal, one line per interval elsewhere."""

import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from io import TextIOBase
from typing import TYPE_CHECKING

from lumen.core.console import console

if TYPE_CHECKING:
    from rich.console import Console
    from rich.live import Live
    from rich.table import Table

REDRAW_SECONDS = 0.5  # least time between two redraws of bars; one takes 2 ms
MIN_BAR_WIDTH, MAX_BAR_WIDTH = 10, 40  # characters


class Phase:
    """Progress of one phase of a command, shown from its construction until it is closed.

    In a terminal it is a bar. Elsewhere it is a line whenever so many parts are done, which depends on no clock. Once
    it is complete it leaves a line. A quiet command shows neither.

    Args:
        title: Words that name the phase, such as "training".
        total: Parts of the phase, such as steps; 0 if they cannot be counted.
        unit: Word for the parts; none for steps.
        done: Parts that were done before.
        every: Parts between two lines; by default a tenth of all, and at least 64.
        stream: Stream to print on; by default standard output.
        is_shown: Whether this process is the one that prints.
        leaves_line: Whether a complete phase leaves a line; False where a result of its own follows.
    """

    def __init__(
        self,
        title: str,
        total: int,
        unit: str = "",
        *,
        done: int = 0,
        every: int | None = None,
        stream: TextIOBase | None = None,
        is_shown: bool = True,
        leaves_line: bool = True,
    ):
        self.leaves_line = leaves_line
        self.title, self.total, self.unit = title, total, unit
        self.done = self.first = done
        self.every = every or max(64, total // 10)
        self.facts: tuple[str, ...] = ()
        self.start = time.monotonic()
        self.is_shown = is_shown and not console.is_quiet
        self.stream = stream or sys.stdout
        self.bars = find_bars(self.stream) if self.is_shown else None
        if self.bars is not None:
            self.bars.add(self)

    def __enter__(self) -> "Phase":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def update(self, done: int, *facts: str) -> None:
        """Show that so many parts are done, with facts such as "loss 0.0651"."""
        before, self.done, self.facts = self.done, done, facts
        if self.bars is not None:
            self.bars.redraw()
        elif self.is_shown and done < self.total and self._is_due(before):
            print(f"{self.text}{self._join(self.details)}", file=self.stream, flush=True)

    def advance(self, count: int = 1) -> None:
        """Show that so many further parts are done."""
        self.update(min(self.done + count, self.total or self.done + count), *self.facts)

    def rename(self, title: str) -> None:
        """Show what the phase does last, which cannot be counted."""
        self.title, self.total = title, 0
        if self.bars is not None:
            self.bars.redraw(at_once=True)

    def close(self) -> None:
        """Take the bar away. A phase that is complete leaves a line with the time that it took."""
        if self.bars is not None:
            self.bars.remove(self)
            self.bars = None
        if self.is_shown and self.leaves_line and self.done >= self.total > 0:
            seconds = format_duration(time.monotonic() - self.start)
            print(f"{self.text}{self._join((*self.facts, seconds))}", file=self.stream, flush=True)
        self.is_shown = False

    @property
    def text(self) -> str:
        """Title and number of parts done, such as "training 210/600"."""
        return f"{self.title} {self.done:,}/{self.total:,} {self.unit}".rstrip() if self.total else self.title

    @property
    def details(self) -> tuple[str, ...]:
        """Facts, and the time left if the other parts take as long as those that were done here."""
        if not self.first < self.done < self.total:
            return self.facts
        seconds = (time.monotonic() - self.start) / (self.done - self.first) * (self.total - self.done)
        return (*self.facts, f"{format_duration(seconds)} left")

    def _is_due(self, before: int) -> bool:
        """Return whether an interval has ended since so many parts were done."""
        return self.done // self.every > before // self.every

    @staticmethod
    def _join(facts: tuple[str, ...]) -> str:
        return "".join(f", {fact}" for fact in facts)


class Bars:
    """Bars of the open phases, below the text that is printed meanwhile.

    They are displayed on the terminal itself, so a log of what is printed holds none of them. While they are shown,
    both output streams take them away before they write. The cursor stays visible, so nothing has to be restored
    however the process ends.

    Args:
        stream: Stream of the terminal.
    """

    def __init__(self, stream: TextIOBase):
        self.console, self.phases = open_terminal(stream), []
        self.live: Live | None = None  # while the bars are displayed
        self.last_redraw, self.is_within_line = 0.0, False
        self.writers: list[tuple[TextIOBase, Callable[[str], int]]] = []

    def add(self, phase: Phase) -> None:
        """Show a further phase."""
        if not self.phases:
            self.writers = [(stream, stream.write) for stream in (sys.stdout, sys.stderr)]
            for stream, write in self.writers:
                stream.write = self._pause_before(write)
        self.phases.append(phase)
        self.redraw(at_once=True)

    def remove(self, phase: Phase) -> None:
        """Show a phase no longer; after the last one the streams are as they were."""
        self.pause()
        self.phases.remove(phase)
        if not self.phases:
            for stream, write in self.writers:
                stream.write = write

    def redraw(self, at_once: bool = False) -> None:
        """Draw the bars anew, unless that was done just now."""
        now = time.monotonic()
        if self.is_within_line or not (at_once or now - self.last_redraw >= REDRAW_SECONDS):
            return
        self.last_redraw = now
        with suppress(OSError):  # the terminal is gone
            sys.stdout.flush()
            live = self.live = self.live or self._start()  # another thread that prints sets `self.live` to None
            live.update(self._table(), refresh=True)

    def pause(self) -> None:
        """Take the bars away until they are displayed next."""
        live, self.live = self.live, None
        with suppress(OSError):
            if live is not None:
                live.stop()

    def _start(self) -> "Live":
        """Return a new display: a former one would take away as many lines as it had."""
        from rich.live import Live  # not at the top: only terminals need it

        options = {"auto_refresh": False, "redirect_stdout": False, "redirect_stderr": False}
        live = Live(console=self.console, transient=True, **options)
        live.start()
        return live

    def _pause_before(self, write: Callable[[str], int]) -> Callable[[str], int]:
        """Return a stream's function `write` that takes the bars away first."""

        def write_above(text: str) -> int:
            self.pause()
            self.is_within_line = not text.endswith("\n") if text else self.is_within_line
            return write(text)

        return write_above

    def _table(self) -> "Table":
        """Return a line for each phase: its text, a bar as wide as there is room for, and its facts."""
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        facts = ["  ".join(phase.details) for phase in self.phases]
        taken = max(len(phase.text) for phase in self.phases) + max(map(len, facts)) + 2
        room = self.console.width - taken - len("^C ")  # which the terminal adds
        table = Table.grid(padding=(0, 1))
        for phase, details in zip(self.phases, facts, strict=True):
            has_bar = phase.total and room >= MIN_BAR_WIDTH
            bar = ProgressBar(phase.total, phase.done, width=min(room, MAX_BAR_WIDTH)) if has_bar else ""
            table.add_row(Text(phase.text, no_wrap=True), bar, Text(details, no_wrap=True, overflow="ellipsis"))
        return table


_bars: Bars | None = None


def find_bars(stream: TextIOBase) -> Bars | None:
    """Return the bars of this process, or new ones on a stream; None if it is no terminal that can redraw lines."""
    global _bars
    if _bars is not None and _bars.phases:
        return _bars
    _bars = Bars(stream) if can_redraw(stream) else None
    return _bars


def can_redraw(stream: TextIOBase) -> bool:
    """Return whether a stream leads to a terminal that can move its cursor; TERM=dumb says that it cannot."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def open_terminal(stream: TextIOBase) -> "Console":
    """Return a console that writes to the terminal behind a stream, and never hides the cursor."""
    from rich.console import Console

    terminal = open(stream.fileno(), "w", encoding=stream.encoding, errors="replace", closefd=False)  # noqa: SIM115
    drawing = Console(file=terminal, force_terminal=True, force_interactive=True)
    drawing.show_cursor = lambda show=True: False
    return drawing


def format_duration(seconds: float) -> str:
    """Return a time in seconds, minutes or hours."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
