"""Output of a command: what a terminal shows, whatever its locale, its reader and the libraries' own remarks."""

import io
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from lumen.core.console import console
from lumen.core.errors import Note
from lumen.core.text import escape

VERBOSITIES = ("DIFFUSERS_VERBOSITY", "TRANSFORMERS_VERBOSITY", "HF_HUB_VERBOSITY")


class OutputLost(BaseException):
    """End of a command whose output nobody reads, or whose disk is full; the message is empty in the first case.

    It is no `Exception`, so that code which handles errors does not delay it.
    """


class Output(io.TextIOWrapper):
    """Standard output that replaces what its encoding lacks, and raises `OutputLost` once it cannot be written."""

    def write(self, text: str) -> int:
        with self._verified():
            return super().write(text)

    def flush(self) -> None:
        with self._verified():
            super().flush()

    @contextmanager
    def _verified(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self.fileno())  # for what is written while the command ends
            os.close(null)
            is_closed = isinstance(error, BrokenPipeError)  # such as by `head` when it has read enough
            raise OutputLost("" if is_closed else f"the output could not be written: {error.strerror}.") from None


def prepare_streams() -> None:
    """Make stdout an `Output`, and open what the shell has closed."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, io.TextIOWrapper(io.FileIO(os.devnull, "w"), encoding="utf-8"))
    out = sys.stdout
    if out is sys.__stdout__ and isinstance(out, io.TextIOWrapper):
        sys.stdout = Output(out.buffer, out.encoding, "replace", None, out.line_buffering, out.write_through)


def silence_libraries() -> None:
    """Show no warnings of libraries, and of LUMEN's own a sentence each, unless `-v` or `python -W` asks for them."""
    if console.is_verbose:
        logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s")
        for name in VERBOSITIES:
            os.environ.setdefault(name, "info")
    if console.is_verbose or sys.warnoptions:
        return
    for name in VERBOSITIES:
        os.environ.setdefault(name, "error")
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    logging.lastResort.setLevel(logging.ERROR)  # of libraries that configure no logging
    warnings.showwarning = _show_note


def print_message(message: str) -> None:
    """Print each line of a message on stderr as LUMEN's; where stderr is lost, do without."""
    with suppress(OSError):
        for line in escape(message).splitlines():
            print(f"lumen: {line}", file=sys.stderr, flush=True)


def _show_note(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    if issubclass(category, Note):
        print_message(str(message))
