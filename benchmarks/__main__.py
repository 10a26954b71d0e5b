"""Benchmarks beside a peer in one process: python -m benchmarks [row ...]; without names all rows.

--peer PATH times a user's own copy of diffusers' train_controlnet.py instead of the peer that is written out here, for
rows that support it. `python -m benchmarks real` runs rows at the widths of Stable Diffusion 1.5, which take minutes
each. `python -m benchmarks readme` writes the tables of results into docs/performance.md.
"""

import os

for library in ("OMP", "MKL", "OPENBLAS"):
    os.environ[f"{library}_NUM_THREADS"] = "1"  # before any of them is imported

import argparse
import sys
from pathlib import Path

import torch

from benchmarks import _table, _turns
from benchmarks._rows import load_rows, measure, save_result
from lumen.core.errors import Mistake


def main(arguments: list[str]) -> int:
    """Time rows, store and print their results, and return 1 if one fails."""
    if arguments == ["readme"]:
        _table.write_section()
        return 0
    if arguments[:1] == ["real"]:
        return _turns.main(arguments[1:])
    parser = argparse.ArgumentParser("python -m benchmarks", description=__doc__)
    parser.add_argument("rows", nargs="*")
    parser.add_argument("--peer", type=Path)
    options = parser.parse_args(arguments)
    if options.peer and not options.peer.is_file():
        parser.error(f"there is no {options.peer}; --peer takes diffusers' examples/controlnet/train_controlnet.py.")
    rows = {name: row for name, row in load_rows().items() if options.peer is None or hasattr(row, "script")}
    if unknown := set(options.rows) - rows.keys():
        kind = "row with a script" if options.peer else "row"
        print(f"no {kind} is called '{unknown.pop()}'; available: {', '.join(rows)}.", file=sys.stderr)
        return 2
    torch.set_num_threads(1)
    failed = []
    print(_table.HEAD)
    for name in options.rows or rows:
        result = measure(rows[name], options.peer)
        save_result(name if options.peer is None else f"{name}_script", result)
        print(_table.format_row(name, result), flush=True)
        failed += [] if result["passed"] else [name]
    if failed:
        print(f"results differ by too much, or too few operations are saved, in: {', '.join(failed)}.", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except Mistake as mistake:
        sys.exit(f"error: {mistake}")
