"""Rows: something of ours timed beside a peer's in one process. python -m benchmarks [row ...], all without a name."""

import os

for library in ("OMP", "MKL", "OPENBLAS"):
    os.environ[f"{library}_NUM_THREADS"] = "1"  # before any of them is imported

import json
import platform
import re
import sys
import time
from datetime import date
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from pkgutil import iter_modules
from statistics import median
from types import ModuleType
from typing import Any

from lumen.files import write_json

HERE = Path(__file__).parent


def measured(row: ModuleType) -> dict[str, Any]:
    """Median CPU seconds of both, round by round in turn, and how far their results are apart.

    A row is a file with PEER, LIBRARIES, ROUNDS, APART, `inputs()`, and `peer` and `ours` of them, which give a number.
    """
    inputs, spent, results = row.inputs(), {"peer": [], "ours": []}, {}
    for _ in range(row.ROUNDS):
        for who in spent:
            start = time.process_time()
            results[who] = float(getattr(row, who)(*inputs))
            spent[who].append(time.process_time() - start)
    seconds = {who: median(times) for who, times in spent.items()}
    apart = abs(results["ours"] - results["peer"]) / abs(results["peer"])
    return {
        "what": row.__doc__.partition("\n")[0],
        "peer": row.PEER,
        "cpu_seconds": seconds,
        "times_faster": seconds["peer"] / seconds["ours"],
        "relative_difference": apart,
        "passed": apart < row.APART,
        "rounds": row.ROUNDS,
        "versions": {"python": platform.python_version()} | {name: version(name) for name in row.LIBRARIES},
        "date": date.today().isoformat(),
    }


def device() -> str:
    """The processor's name."""
    cpuinfo = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.+)", cpuinfo.read_text()) if cpuinfo.exists() else None
    return found[1] if found else platform.processor() or platform.machine()


def main(names: list[str]) -> int:
    modules = {m.name: import_module(f"benchmarks.{m.name}") for m in iter_modules([str(HERE)]) if m.name != "__main__"}
    rows = {name: module for name, module in modules.items() if hasattr(module, "peer")}
    if unknown := set(names) - rows.keys():
        print(f"no row is called '{unknown.pop()}'; there are: {', '.join(rows)}.", file=sys.stderr)
        return 2
    path = HERE / "results" / f"{re.sub(r'[^A-Za-z0-9.]+', '-', device()).strip('-')}.json"
    kept = json.loads(path.read_text()) if path.exists() else {"device": device(), "rows": {}}
    print("| row | peer | peer, s | ours, s | times faster | relative difference |\n|---|---|---|---|---|---|")
    for name in names or rows:
        kept["rows"][name] = found = measured(rows[name])
        peer, ours = found["cpu_seconds"].values()
        figures = f"{peer:.2f} | {ours:.2f} | {found['times_faster']:.1f} | {found['relative_difference']:.1e}"
        print(f"| {name} | {found['peer']} | {figures} |", flush=True)
        write_json(path, kept)
    return 0 if all(kept["rows"][name]["passed"] for name in names or rows) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
