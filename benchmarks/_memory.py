"""Resident memory of this process, as Linux counts it."""

import ctypes
import gc
import re
from pathlib import Path

from lumen.core.errors import Mistake

STATUS, SYSTEM = Path("/proc/self/status"), Path("/proc/meminfo")


def release_memory() -> None:
    """Give freed memory back to the system, and let the peak start anew."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # resets VmHWM, see proc(5)


def peak_memory() -> int:
    """Return the largest resident memory since `release_memory`, in bytes."""
    return _read(STATUS, "VmHWM")


def require_memory(limit: int) -> None:
    """Check that this process may grow to so many bytes.

    Raises:
        Mistake: The system has too little free memory, or is no Linux.
    """
    if not STATUS.exists():
        raise Mistake("rows at real widths read memory from /proc; run them on Linux.")
    available = _read(SYSTEM, "MemAvailable") + _read(STATUS, "VmRSS")
    if available < limit:
        raise Mistake(
            f"rows at real widths take up to {limit / 1e9:.3g} GB of memory, and {available / 1e9:.3g} GB are free; "
            "end other programs first."
        )


def _read(file: Path, key: str) -> int:
    return int(re.search(rf"{key}:\s+(\d+) kB", file.read_text(encoding="utf-8"))[1]) * 1024
