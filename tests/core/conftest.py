"""A pseudo-terminal, and what a reader sees on it."""

import fcntl
import os
import pty
import re
import struct
import sys
import termios
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

TOKEN = re.compile(r"\x1b\[(?P<numbers>[\d;]*)(?P<code>[A-HJKm])|(?P<other>\x1b\[\?[\d;]*[a-z])|(?P<char>.)", re.DOTALL)


class Terminal:
    """Pseudo-terminal of so many columns.

    Attributes:
        slave: Descriptor that a program writes to.
        output: What was written.
    """

    def __init__(self, columns: int):
        self.columns = columns
        self.master, self.slave = pty.openpty()
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        self.output = ""
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Let this process print on the terminal."""
        streams = sys.stdout, sys.stderr
        options = {"buffering": 1, "encoding": "utf-8", "closefd": False}
        with open(self.slave, "w", **options) as out, open(self.slave, "w", **options) as error:
            sys.stdout, sys.stderr = out, error
            try:
                yield
            finally:
                sys.stdout, sys.stderr = streams

    def _read(self) -> None:
        while True:
            try:
                data = os.read(self.master, 65536)
            except OSError:  # every program has closed it
                return
            if not data:
                return
            self.output += data.decode()

    def lines(self) -> list[str]:
        """Return the lines that a reader sees once all programs have closed the terminal, without empty last ones."""
        self.close()
        screen, row, column = [""], 0, 0
        for token in TOKEN.finditer(self.output):
            char, code = token["char"], token["code"]
            if code == "A":
                row = max(0, row - int(token["numbers"] or 1))
            elif code == "K":
                screen[row] = ""
            elif code == "J":
                screen[row:] = [screen[row][:column]]
            elif char == "\r":
                column = 0
            elif char == "\n":
                row += 1
            elif char:
                if column == self.columns:
                    row, column = row + 1, 0
                screen += [""] * (row + 1 - len(screen))
                line = screen[row].ljust(column)
                screen[row], column = line[:column] + char + line[column + 1 :], column + 1
            screen += [""] * (row + 1 - len(screen))
        return "\n".join(line.rstrip() for line in screen).rstrip("\n").split("\n")

    def close(self) -> None:
        if self.slave >= 0:
            os.close(self.slave)
            self.slave = -1
        self.reader.join(10)


@pytest.fixture
def terminal(monkeypatch, request) -> Iterator[Terminal]:
    """Pseudo-terminal of 80 columns, or of as many as a test is parametrised by."""
    terminal = Terminal(getattr(request, "param", 80))
    monkeypatch.setenv("COLUMNS", str(terminal.columns))
    monkeypatch.setenv("LINES", "24")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    yield terminal
    terminal.close()
    os.close(terminal.master)
