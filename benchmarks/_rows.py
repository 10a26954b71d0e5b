"""Rows of the benchmark table: discovery, comparison, timing, stored results."""

import cProfile
import json
import platform
import pstats
import re
import time
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import date
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from pkgutil import iter_modules
from statistics import median
from types import ModuleType
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from lumen.core.files import write_json

HERE = Path(__file__).parent
PROFILE_LENGTH = 4  # functions
QUIET_SHARE = 1.2  # of the seconds on the clock to those of the processor; above, a thread has waited for a core


def load_rows() -> dict[str, ModuleType]:
    """Return the rows by name: the modules of this package that have a peer.

    A row has these constants:

    - PEER: description of the peer.
    - LIBRARIES: packages whose versions are recorded.
    - ROUNDS: repetitions.
    - TOLERANCE: largest relative difference of the results; 0 means bit by bit.
    - TARGET_SPEEDUP: desired speed-up, which is never a condition.
    - MIN_FLOP_RATIO (optional): least ratio of the peer's operations to ours.
    - BOTTLENECK (optional): reason why the target is missed.
    - OTHER_PEERS (optional): further peers by description, functions like `peer` whose results may be less accurate.

    It has these functions:

    - `inputs(small=False)`: arguments of `peer` and `ours`, which return a number, a tensor or several.
    - `exact` (optional): result that both approximate.
    - `difference(result, exact)` (optional): instead of the relative difference.
    - `script(path, *inputs)` (optional): seconds that the peer's own script takes.
    """
    names = [m.name for m in iter_modules([str(HERE)]) if not m.name.startswith("_")]
    modules = {name: import_module(f"benchmarks.{name}") for name in names}
    return {name: module for name, module in modules.items() if hasattr(module, "peer")}


def relative_difference(a: Any, b: Any) -> float:
    """Return the largest difference of numbers, tensors or several of them, as a share of the largest value of `b`."""
    if isinstance(a, Sequence):
        return max(relative_difference(*pair) for pair in zip(a, b, strict=True))
    a, b = (torch.as_tensor(x).detach().double() for x in (a, b))
    return float((a - b).abs().max() / b.abs().max().clamp(min=1e-300))


def compare(row: ModuleType, inputs: tuple) -> dict[str, Any]:
    """Return the difference of the results, the ratio of operations, and whether both are as required."""
    results, operations = {}, {}
    for side in ("peer", "ours"):
        with FlopCounterMode(display=False) as counter:
            results[side] = getattr(row, side)(*inputs)
        operations[side] = counter.get_total_flops()
    difference = getattr(row, "difference", relative_difference)
    exact = getattr(row, "exact", lambda *_: results["peer"])(*inputs)
    comparison = {"relative_difference": difference(results["ours"], exact), "allowed_difference": row.TOLERANCE}
    passed = comparison["relative_difference"] <= row.TOLERANCE
    if hasattr(row, "exact"):
        comparison["relative_difference_of_peer"] = difference(results["peer"], exact)
    if hasattr(row, "MIN_FLOP_RATIO"):
        comparison["times_fewer_flops"] = operations["peer"] / operations["ours"]
        comparison["least_times_fewer_flops"] = row.MIN_FLOP_RATIO
        passed = passed and comparison["times_fewer_flops"] >= row.MIN_FLOP_RATIO
    return comparison | {"passed": passed}


def measure(row: ModuleType, script: Path | None = None) -> dict[str, Any]:
    """Return the comparison and the median CPU seconds of both sides, and a profile of ours if the target is missed.

    Args:
        script: The peer's own script, timed instead of `peer`.
    """
    inputs, times = row.inputs(), {"peer": [], "ours": []}
    result = compare(row, inputs)  # warms up too
    clock = time.perf_counter()
    for _ in range(row.ROUNDS):
        for side in times:
            start = time.process_time()
            getattr(row, side)(*inputs)
            times[side].append(time.process_time() - start)
    elapsed, busy = time.perf_counter() - clock, sum(map(sum, times.values()))
    seconds = {side: median(values) for side, values in times.items()}
    others = {name: measure_other(row, other, inputs) for name, other in getattr(row, "OTHER_PEERS", {}).items()}
    if script:
        seconds["peer"] = row.script(script, *inputs)
    speedup = seconds["peer"] / seconds["ours"]
    if speedup < row.TARGET_SPEEDUP:
        result["profile"] = profile(row.ours, inputs)
    return result | {
        "what": row.__doc__.partition("\n")[0],
        "peer": f"{script.name}, the script itself" if script else row.PEER,
        "cpu_seconds": seconds,
        "times_faster": speedup,
        "target": row.TARGET_SPEEDUP,
        "other_peers": others,
        "beside_other_work": elapsed > QUIET_SHARE * busy,
        "rounds": row.ROUNDS,
        "versions": {"python": platform.python_version()} | {name: version(name) for name in row.LIBRARIES},
        "date": date.today().isoformat(),
    }


def measure_other(row: ModuleType, other: Callable[..., Any], inputs: tuple) -> dict[str, float]:
    """Return the median CPU seconds of a further peer, and the difference of its result."""
    times = []
    for _ in range(row.ROUNDS):
        start = time.process_time()
        result = other(*inputs)
        times.append(time.process_time() - start)
    return {"cpu_seconds": median(times), "relative_difference": row.difference(result, row.exact(*inputs))}


def profile(function: Callable[..., Any], inputs: tuple) -> dict[str, float]:
    """Return the functions with the largest shares of the time, without the time of functions that they call."""
    profiler = cProfile.Profile()
    profiler.runcall(function, *inputs)
    own_seconds = Counter()
    for (file, _, name), (_, _, seconds, _, _) in pstats.Stats(profiler).stats.items():
        builtin = re.match(r"<(?:built-in )?method '?(?:\w+\.)*(\w+)", name)
        own_seconds[builtin[1] if builtin else f"{Path(file).stem}.{name}"] += seconds
    total = own_seconds.total()
    return {name: seconds / total for name, seconds in own_seconds.most_common(PROFILE_LENGTH)}


def processor_name() -> str:
    """Return the name of the CPU."""
    cpuinfo = Path("/proc/cpuinfo")
    match = re.search(r"model name\s*: (.+)", cpuinfo.read_text(encoding="utf-8")) if cpuinfo.exists() else None
    return match[1] if match else platform.processor() or platform.machine()


def save_result(name: str, result: dict[str, Any], table: str = "rows") -> None:
    """Write the result of a row into a table of this CPU's file, beside those of other rows."""
    path = HERE / "results" / f"{re.sub(r'[^A-Za-z0-9.]+', '-', processor_name()).strip('-')}.json"
    new = {"device": processor_name(), "rows": {}}
    content = json.loads(path.read_text(encoding="utf-8")) if path.exists() else new
    content.setdefault(table, {})[name] = result
    write_json(path, content)
