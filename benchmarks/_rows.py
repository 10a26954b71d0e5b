"""What a row is, how it is timed, and where its figures are kept."""

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
SHOWN = 4  # functions of a profile


def rows() -> dict[str, ModuleType]:
    """Every file here that has a peer, by name.

    It has PEER (in words), LIBRARIES (whose versions matter), ROUNDS, APART (how far the results may be apart, as a
    share; 0 is bit by bit), TARGET (how many times faster it should be; never a condition), FLOPS where the operations
    are counted (how many times fewer it must be), and `inputs(small=False)`, `peer` and `ours` of them, which give a
    number, a tensor or several. Where both are approximations, `exact` of the inputs gives what they are compared with,
    and `apart(result, exact)` may say how. Where a script of the peer's is to be had, `script` of its path and the
    inputs gives the seconds that it takes instead. MISSED says why a target is missed, should it be.
    """
    names = [m.name for m in iter_modules([str(HERE)]) if not m.name.startswith("_")]
    found = {name: import_module(f"benchmarks.{name}") for name in names}
    return {name: module for name, module in found.items() if hasattr(module, "peer")}


def apart(one: Any, other: Any) -> float:
    """The largest difference as a share of the largest value, of numbers, tensors or several of them."""
    if isinstance(one, Sequence):
        return max(apart(*pair) for pair in zip(one, other, strict=True))
    one, other = (torch.as_tensor(each).detach().double() for each in (one, other))
    return float((one - other).abs().max() / other.abs().max().clamp(min=1e-300))


def compared(row: ModuleType, inputs: tuple) -> dict[str, Any]:
    """How far the results are apart, and how many times fewer operations ours takes, with `passed` of both."""
    results, operations = {}, {}
    for who in ("peer", "ours"):
        with FlopCounterMode(display=False) as counter:
            results[who] = getattr(row, who)(*inputs)
        operations[who] = counter.get_total_flops()
    measure, exact = getattr(row, "apart", apart), getattr(row, "exact", lambda *_: results["peer"])(*inputs)
    found = {"relative_difference": measure(results["ours"], exact), "allowed_difference": row.APART}
    passed = found["relative_difference"] <= row.APART
    if hasattr(row, "exact"):
        found["relative_difference_of_peer"] = measure(results["peer"], exact)
    if hasattr(row, "FLOPS"):
        found["times_fewer_flops"] = operations["peer"] / operations["ours"]
        found["least_times_fewer_flops"] = row.FLOPS
        passed = passed and found["times_fewer_flops"] >= row.FLOPS
    return found | {"passed": passed}


def measured(row: ModuleType, script: Path | None = None) -> dict[str, Any]:
    """compared(), the median CPU seconds of both in turn, and where it misses its target a profile of ours.

    Args:
        script: the peer's own, timed in its place.
    """
    inputs, spent = row.inputs(), {"peer": [], "ours": []}
    found = compared(row, inputs)  # which warms up
    for _ in range(row.ROUNDS):
        for who in spent:
            start = time.process_time()
            getattr(row, who)(*inputs)
            spent[who].append(time.process_time() - start)
    seconds = {who: median(times) for who, times in spent.items()}
    if script:
        seconds["peer"] = row.script(script, *inputs)
    faster = seconds["peer"] / seconds["ours"]
    if faster < row.TARGET:
        found["profile"] = profile(row.ours, inputs)
    return found | {
        "what": row.__doc__.partition("\n")[0],
        "peer": f"{script.name}, the script itself" if script else row.PEER,
        "cpu_seconds": seconds,
        "times_faster": faster,
        "target": row.TARGET,
        "rounds": row.ROUNDS,
        "versions": {"python": platform.python_version()} | {name: version(name) for name in row.LIBRARIES},
        "date": date.today().isoformat(),
    }


def profile(work: Callable[..., Any], inputs: tuple) -> dict[str, float]:
    """What share of its time is spent in which functions themselves, those with most of it."""
    profiler = cProfile.Profile()
    profiler.runcall(work, *inputs)
    own = Counter()
    for (file, _, name), (_, _, seconds, _, _) in pstats.Stats(profiler).stats.items():
        builtin = re.match(r"<(?:built-in )?method '?(?:\w+\.)*(\w+)", name)
        own[builtin[1] if builtin else f"{Path(file).stem}.{name}"] += seconds
    return {name: seconds / own.total() for name, seconds in own.most_common(SHOWN)}


def device() -> str:
    """The processor's name."""
    cpuinfo = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.+)", cpuinfo.read_text()) if cpuinfo.exists() else None
    return found[1] if found else platform.processor() or platform.machine()


def keep(name: str, figures: dict[str, Any]) -> None:
    """Writes the figures of a row into the file of this device, beside those of other rows."""
    path = HERE / "results" / f"{re.sub(r'[^A-Za-z0-9.]+', '-', device()).strip('-')}.json"
    kept = json.loads(path.read_text()) if path.exists() else {"device": device(), "rows": {}}
    kept["rows"][name] = figures
    write_json(path, kept)
