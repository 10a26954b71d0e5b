"""Console: verbosity of a command, and the log of its run, which holds what the command prints."""

import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import TextIOBase
from pathlib import Path

LOG_NAME = "log.txt"
ESCAPE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\a\x1b]*(?:\a|\x1b\\))")  # of a terminal: colours, cursor, titles
CURSOR_UP = re.compile(r"\x1b\[(\d*)A")


class RunLog:
    """Log of a run: the lines that its commands print on both streams, without redraws of progress.

    A line that a carriage return begins anew is progress, and so are the lines that the cursor moves up over. A line
    is written as soon as it ends, so a command that is killed leaves what it has printed. The file is open only then: a
    file that stays open for writing keeps a disk from being remounted read-only.

    Args:
        path: File that is appended to.
        command: Command that prints, for the first line.
    """

    def __init__(self, path: Path, command: str):
        self.path = path.absolute()
        self._pending: dict[TextIOBase | None, str] = {}  # beginning of the line that a stream is printing
        self.append(log_header(command))

    def append(self, text: str) -> None:
        """Append a text.

        Raises:
            OSError: The file cannot be written.
        """
        with open(self.path, "ab", buffering=0) as file:
            file.write(text.encode(errors="backslashreplace"))

    def record(self, text: str, stream: TextIOBase | None = None) -> None:
        """Append the lines that end in a text; on a full disk do without."""
        num_redrawn = sum(int(count or 1) for count in CURSOR_UP.findall(text))
        *lines, beginning = (self._pending.get(stream, "") + text).split("\n")
        self._pending[stream] = beginning.rpartition("\r")[2]
        for line in lines[: max(0, len(lines) - num_redrawn)]:
            visible = ESCAPE.sub("", line.rstrip("\r").rpartition("\r")[2])
            if visible.strip() or visible == line:  # not what only moved the cursor
                with suppress(OSError):
                    self.append(f"{visible}\n")


class Console:
    """Output of the command that this process runs.

    Attributes:
        command: Command as it was typed; None where Python calls LUMEN.
        is_quiet: Whether announcements and progress are left out.
        is_verbose: Whether remarks of libraries and tracebacks of mistakes are shown.
    """

    def __init__(self) -> None:
        self.command: str | None = None
        self.is_quiet = self.is_verbose = False
        self.log: RunLog | None = None
        self._writers: list[tuple[TextIOBase, Callable[[str], int]]] = []

    @contextmanager
    def run(self, command: str, is_quiet: bool, is_verbose: bool) -> Iterator[None]:
        """Run a command within the context, at whose end its log ends."""
        self.command, self.is_quiet, self.is_verbose = command, is_quiet, is_verbose
        try:
            yield
        finally:
            self._close_log()
            self.command, self.is_quiet, self.is_verbose = None, False, False

    def open_log(self, directory: Path) -> None:
        """Append what the command prints from now on to the log of a run, unless that is where its output goes."""
        path = directory / LOG_NAME
        if self.command is None or self.log is not None or _is_output(path):
            return
        with suppress(OSError):  # the run says so when it writes its own files
            self.log = RunLog(path, self.command)
            self._writers = [(stream, stream.write) for stream in (sys.stdout, sys.stderr)]
            for stream, write in self._writers:
                stream.write = _copy_writes(stream, write, self.log)

    def _close_log(self) -> None:
        for stream, write in self._writers:
            stream.write = write
        self.log, self._writers = None, []

    def write_at_exit(self, message: str) -> None:
        """Write a message on stderr and in the log, where a signal may have interrupted any other code."""
        with suppress(OSError):
            os.write(2, message.encode())
        with suppress(OSError):
            if self.log is not None:
                self.log.append(message)


console = Console()


def announce(text: str) -> None:
    """Print what a command is about to do, or has done on the way to its result; a quiet command does not."""
    if not console.is_quiet:
        print(text, flush=True)


def log_header(command: str) -> str:
    """Return the line of a log that begins the output of a command."""
    return f"$ {command}  # {time.strftime('%Y-%m-%d %H:%M:%S')}\n"


def _copy_writes(stream: TextIOBase, write: Callable[[str], int], log: RunLog) -> Callable[[str], int]:
    """Return a stream's function `write` that also writes to a log.

    It stands in the stream itself, because handlers of logging and libraries hold the object.
    """

    def write_both(text: str) -> int:
        log.record(text, stream)
        return write(text)

    return write_both


def _is_output(path: Path) -> bool:
    """Return whether standard output goes to a file, as that of a sweep's run does to its log."""
    try:
        return os.path.samestat(os.fstat(sys.stdout.fileno()), os.stat(path))
    except (OSError, ValueError):  # there is no such file, or no file behind the stream
        return False
