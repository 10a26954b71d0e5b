"""History of a run: the lines of metrics.jsonl before the step that it resumes at, and what is lost of them."""

from pathlib import Path
from typing import Any

from lumen.core.readers import parse_line


def read_history(path: Path, step: int, interval: int | None = None) -> tuple[list[dict[str, Any]], str | None]:
    """Return the lines of the steps before `step`, and a sentence about damage; None if there is none.

    A power failure may shorten a file, or leave zero bytes where lines were. A last line that is cut short is no
    damage: the process was killed while it wrote it.

    Args:
        interval: Most steps between two lines of a complete history; None if it need not be complete.
    """
    content = path.read_bytes() if path.exists() else b""
    lines, lost = [], []
    is_damaged, has_gap, last_step = False, False, -1
    *complete, tail = content.split(b"\n")
    for text in [*complete, *([tail] if tail else [])]:
        record = parse_line(text.replace(b"\0", b""))
        is_line = record is not None and isinstance(record.get("step"), int)
        has_gap |= b"\0" in text or not (is_line or text is tail)
        is_damaged |= has_gap
        if not is_line:
            continue
        if record["step"] >= step:
            break
        if has_gap and record["step"] > last_step + 1:
            lost.append((last_step + 1, record["step"] - 1))
        lines.append(record)
        has_gap, last_step = False, record["step"]
    if interval and step - 1 - last_step >= interval:
        lost.append((last_step + 1, step - 1))
    return lines, _describe(path, step, lost) if step and (lost or is_damaged) else None


def _describe(path: Path, step: int, lost: list[tuple[int, int]]) -> str:
    spans = " and ".join(f"{first} to {last}" if first < last else f"{first}" for first, last in lost)
    damage = f"what was logged in steps {spans} is lost" if lost else "what cannot be read of it was removed"
    return f"{path} is damaged, as after a power failure: {damage}; the run resumes at step {step}."
