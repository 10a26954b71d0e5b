"""Rows at real widths beside a peer: python -m benchmarks real [row ...]; without names all rows.

The peer and ours take turns in one process on one copy of the frozen networks, which are untrained. Whatever else a
side needs is freed after its turn. A row takes at most 14 GB of memory, and should take at most four minutes.
"""

import argparse
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date
from importlib.metadata import version
from statistics import median
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import _table
from benchmarks._memory import peak_memory, release_memory, require_memory
from benchmarks._rows import QUIET_SHARE, profile, relative_difference, save_result
from benchmarks.real import ROWS, Row, Setting, Work

LIBRARIES = ("diffusers", "timm", "torch", "transformers")
MEMORY_LIMIT_BYTES = 14 * 10**9
TURNS = 2


@dataclass
class Side:
    """Measurements of one side of a row."""

    results: list[Any] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    flops: int = 0
    peak_bytes: int = 0
    profile: dict[str, float] = field(default_factory=dict)


def take_turn(side: Side, work: Work, missed: Callable[[], bool] = lambda: False) -> None:
    """Prepare one side, run two steps of it, of which the second is timed, and free it.

    Args:
        missed: Whether a third step is to be profiled.
    """
    next(work)
    release_memory()
    with FlopCounterMode(display=False) as counter:
        results = [next(work)]  # warms up too
    cpu, wall = time.process_time(), time.perf_counter()
    results.append(next(work))
    side.cpu_seconds.append(time.process_time() - cpu)
    side.seconds.append(time.perf_counter() - wall)
    side.peak_bytes = max(side.peak_bytes, peak_memory())
    side.flops, side.results = counter.get_total_flops(), results
    if missed():
        side.profile = profile(next, (work,))
    work.close()


def measure(row: Row, setting: Setting, turns: int = TURNS) -> dict[str, Any]:
    """Return difference of the results, operations, median seconds and peak memory of both sides."""
    peer, ours = Side(), Side()
    for turn in range(turns):
        take_turn(peer, row.peer(setting))
        release_memory()
        last = turn == turns - 1
        take_turn(ours, row.ours(setting), lambda: last and speedup(peer, ours) < row.target)  # noqa: B023
        release_memory()
    difference = relative_difference(ours.results, peer.results)
    sides = {"peer": peer, "ours": ours}
    result = {
        "what": row.what,
        "peer": row.peer_name,
        "cpu_seconds": {name: median(side.cpu_seconds) for name, side in sides.items()},
        "seconds": {name: median(side.seconds) for name, side in sides.items()},
        "beside_other_work": any(sum(s.seconds) > QUIET_SHARE * sum(s.cpu_seconds) for s in sides.values()),
        "flops": {name: side.flops for name, side in sides.items()},
        "peak_bytes": {name: side.peak_bytes for name, side in sides.items()},
        "times_faster": speedup(peer, ours),
        "target": row.target,
        "times_fewer_flops": peer.flops / ours.flops,
        "least_times_fewer_flops": row.min_flop_ratio,
        "relative_difference": difference,
        "allowed_difference": row.tolerance,
        "passed": difference <= row.tolerance and peer.flops >= row.min_flop_ratio * ours.flops,
        "rounds": turns,
        "versions": {"python": platform.python_version()} | {name: version(name) for name in LIBRARIES},
        "date": date.today().isoformat(),
    }
    return result | ({"profile": ours.profile} if ours.profile else {})


def speedup(peer: Side, ours: Side) -> float:
    """Return the ratio of median CPU seconds."""
    return median(peer.cpu_seconds) / median(ours.cpu_seconds)


def main(arguments: list[str]) -> int:
    """Measure rows, store and print their results, and return 1 if one fails."""
    parser = argparse.ArgumentParser("python -m benchmarks real", description=__doc__)
    parser.add_argument("rows", nargs="*", metavar="row", help=", ".join(ROWS))
    parser.add_argument("--small", action="store_true", help="tiny networks; nothing is stored")
    parser.add_argument("--turns", type=int, default=TURNS, help=f"of each side; {TURNS} by default")
    options = parser.parse_args(arguments)
    if unknown := set(options.rows) - ROWS.keys():
        print(f"no row at real widths is called '{unknown.pop()}'; available: {', '.join(ROWS)}.", file=sys.stderr)
        return 2
    if not options.small:
        require_memory(MEMORY_LIMIT_BYTES)
    torch.set_num_threads(1)
    setting, failed = Setting(options.small), []
    print(_table.REAL_HEAD)
    for name in options.rows or ROWS:
        result = measure(ROWS[name], setting, options.turns)
        if not options.small:
            save_result(name, result, "real")
        print(_table.format_real_row(name, result), flush=True)
        failed += [] if result["passed"] else [name]
    if failed:
        print(f"results differ by too much, or too few operations are saved, in: {', '.join(failed)}.", file=sys.stderr)
    return 1 if failed else 0
