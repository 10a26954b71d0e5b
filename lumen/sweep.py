"""Sweeps: every command of a table that has not been run to its end, one after another."""

import shlex
import subprocess
import sys
import time

from lumen import folder
from lumen.table import Table


def ablate(table: Table) -> list[str]:
    """Runs what is not finished, one command after another, each as a user would type it.

    A row that cannot be trained is not measured; rows that are one run measured in several ways train it once.

    Returns:
        the commands that failed.
    """
    plan = {place: words for each in jobs(table) for place, words in each.items()}
    left = [place for place in plan if folder.figures(place) is None]
    print(f"{len(plan)} runs, {len(plan) - len(left)} of them done before", flush=True)
    failed, start = [], time.monotonic()
    for number, place in enumerate(left):
        spent = (time.monotonic() - start) / 60
        ahead = f", about {spent / number * (len(left) - number):.0f} min left" if number else ""
        print(f"[{number + 1}/{len(left)}{ahead}] {plan[place]}", flush=True)
        if any(other in place.parents and plan[other] in failed for other in plan) or launch(plan[place]) != 0:
            failed.append(plan[place])
    return failed


def jobs(table: Table) -> list[dict]:
    """Of each row and seed the commands that make it, by the folder that each fills."""
    return [table.commands(row, seed) for row in table.rows for seed in range(table.seeds)]


def launch(command: str) -> int:
    """Runs a command in a process of its own, as W&B and the GPU's memory want it; gives its exit code."""
    # -P: a folder of the user's called experiments would be taken for LUMEN's.
    return subprocess.run([sys.executable, "-P", "-m", *shlex.split(command)]).returncode
