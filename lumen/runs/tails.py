"""Ends of a run's files that grow: the newest logged values, and the error that its last command ended with."""

import re
from pathlib import Path

from lumen.core.readers import parse_line
from lumen.core.signals import INTERRUPTED

STOPPED = ("lumen: stopped by", f"lumen: {INTERRUPTED}")  # beginnings of the sentences about a run that resumes


def read_tail(path: Path, num_bytes: int = 20000) -> str:
    """Return the end of a file, after a line break; only the line break if there is no such file."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, path.stat().st_size - num_bytes))
            return "\n" + file.read().decode(errors="replace")
    except OSError:
        return "\n"


def read_newest_values(history: Path) -> dict[str, float]:
    """Return the newest value of each key in the last lines of a run's metrics.jsonl."""
    values: dict[str, float] = {}
    for line in read_tail(history).splitlines()[-50:]:
        record = parse_line(line.encode()) or {}  # the run is writing this line
        values |= {key: value for key, value in record.items() if isinstance(value, int | float)}
    return values


def read_last_output(log: Path) -> list[str]:
    """Return the lines that the last command in a log has printed."""
    output = read_tail(log).rpartition("\n$ ")[2]
    return [line.strip() for line in re.split(r"[\r\n]+", output) if line.strip()]


def is_error(line: str) -> bool:
    """Return whether a line says why a command ended early."""
    return re.match(r"lumen: |[\w.]+(Error|Exception|Exit)\b", line) is not None


def find_failure(log: Path) -> str | None:
    """Return the error that the last command in a log ended with; None if it was stopped, or killed without a word."""
    last = read_last_output(log)[-1:]
    return next((line for line in last if is_error(line) and not line.startswith(STOPPED)), None)
