"""Sweeps: every row of a table that is not done yet, launched one after another."""

import shlex
import subprocess
import sys
import time

from lumen import folder
from lumen.table import Row, Table


def ablate(table: Table) -> list[str]:
    """Runs every row that is not finished, one after another, each as the command a user would type.

    Returns:
        the commands that failed.
    """
    failed = []
    plan = [(row, seed) for row in table.rows for seed in range(table.seeds)]
    left = [(row, seed) for row, seed in plan if folder.figures(folder.place_of(table.config(row, seed))) is None]
    print(f"{len(plan)} runs, {len(plan) - len(left)} of them done before", flush=True)
    start = time.monotonic()
    for number, (row, seed) in enumerate(left):
        words = command(table, row, seed)
        spent = (time.monotonic() - start) / 60
        ahead = f", about {spent / number * (len(left) - number):.0f} min left" if number else ""
        print(f"[{number + 1}/{len(left)}{ahead}] {row.name} seed {seed}: {words}", flush=True)
        if launch(words) != 0:
            failed.append(words)
    return failed


def launch(command: str) -> int:
    """Runs a command in a process of its own, as W&B and the GPU's memory want it; gives its exit code."""
    # -P: a folder of the user's called experiments would be taken for LUMEN's.
    return subprocess.run([sys.executable, "-P", "-m", *shlex.split(command)]).returncode


def command(table: Table, row: Row, seed: int) -> str:
    return shlex.join(["lumen", "train", table.base, *table.flags(row, seed)])
