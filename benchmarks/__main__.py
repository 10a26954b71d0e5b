"""Rows: something of ours timed beside a peer's in one process. python -m benchmarks [row ...], all without a name.

--peer PATH times a user's own train_controlnet.py of diffusers in the place of the peer that is written out here, where
a row has one; `python -m benchmarks readme` puts the table of the results into the README.
"""

import os

for library in ("OMP", "MKL", "OPENBLAS"):
    os.environ[f"{library}_NUM_THREADS"] = "1"  # before any of them is imported

import argparse
import sys
from pathlib import Path

import torch

from benchmarks import _table
from benchmarks._rows import keep, measured, rows
from lumen.core.errors import Mistake


def main(words: list[str]) -> int:
    if words == ["readme"]:
        _table.write()
        return 0
    parser = argparse.ArgumentParser("python -m benchmarks", description=__doc__)
    parser.add_argument("rows", nargs="*")
    parser.add_argument("--peer", type=Path)
    asked = parser.parse_args(words)
    if asked.peer and not asked.peer.is_file():
        parser.error(f"there is no {asked.peer}; --peer takes diffusers' examples/controlnet/train_controlnet.py.")
    known = {name: row for name, row in rows().items() if asked.peer is None or hasattr(row, "script")}
    failed = []
    if unknown := set(asked.rows) - known.keys():
        kind = "row with a script" if asked.peer else "row"
        print(f"no {kind} is called '{unknown.pop()}'; there are: {', '.join(known)}.", file=sys.stderr)
        return 2
    torch.set_num_threads(1)
    print(_table.HEAD)
    for name in asked.rows or known:
        found = measured(known[name], asked.peer)
        keep(name if asked.peer is None else f"{name}_script", found)
        print(_table.line(name, found), flush=True)
        failed += [] if found["passed"] else [name]
    if failed:
        print(f"results differ by too much, or operations were not saved, in: {', '.join(failed)}.", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except Mistake as mistake:
        sys.exit(f"error: {mistake}")
