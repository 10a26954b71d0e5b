"""Rows: something of ours timed beside a peer's in one process. python -m benchmarks [row ...], all without a name.

python -m benchmarks readme puts the table of the results into the README.
"""

import os

for library in ("OMP", "MKL", "OPENBLAS"):
    os.environ[f"{library}_NUM_THREADS"] = "1"  # before any of them is imported

import sys

import torch

from benchmarks import _table
from benchmarks._rows import keep, measured, rows


def main(names: list[str]) -> int:
    if names == ["readme"]:
        _table.write()
        return 0
    known, failed = rows(), []
    if unknown := set(names) - known.keys():
        print(f"no row is called '{unknown.pop()}'; there are: {', '.join(known)}.", file=sys.stderr)
        return 2
    torch.set_num_threads(1)
    print(_table.HEAD)
    for name in names or known:
        found = measured(known[name])
        keep(name, found)
        print(_table.line(name, found), flush=True)
        failed += [] if found["passed"] else [name]
    if failed:
        print(f"results differ by too much, or operations were not saved, in: {', '.join(failed)}.", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
