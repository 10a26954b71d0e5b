"""Tables: their rows run, put together, reported, probed."""

import sys
from typing import TYPE_CHECKING

from lumen.cli.command import Verb, one, strings, verb, whole
from lumen.core.signals import STOPPED

if TYPE_CHECKING:
    from lumen.sweeps.table import Table


@verb("ablate")
def ablate(words: list[str], flags: dict[str, str]) -> int:
    """lumen ablate TABLE [base=EXPERIMENT seeds=1 rows=A,B launcher=local trial=A --print key=value ...]: all rows"""
    from lumen.sweeps import ablate as sweep

    only_print, launcher = flags.pop("--print", None) is not None, sweep.launcher(flags)
    only = flags.pop("trial", None)
    rows = _table(words, flags, ablate)
    if only_print:
        print("\n".join(command for trial in sweep.trials(rows, only) for command in trial.commands.values()))
        return 0
    every = sweep.ablate(rows, launcher, only)
    if any(trial.state == "sent" for trial in every):
        return 0
    if only is None:  # else an agent of W&B has asked for one run
        print()
        _print_table(rows)
    for trial in every:
        if trial.failures:
            print(trial.report(), file=sys.stderr)
    left = [trial for trial in every if trial.left()]
    if left and all(trial.state == "stopped" for trial in left):
        return STOPPED
    return 1 if left else 0


@verb("table")
def table(words: list[str], flags: dict[str, str]) -> int:
    """lumen table TABLE [base=EXPERIMENT seeds=1 rows=A,B parts=METRIC key=value ...]: its finished rows"""
    parts = flags.pop("parts", None)
    _print_table(_table(words, flags, table), parts)
    return 0


@verb("report")
def report(words: list[str], flags: dict[str, str]) -> int:
    """lumen report TABLE [base=EXPERIMENT seeds=1 rows=A,B wandb=online key=value ...]: a page of it"""
    rows = _table(words, flags, report)
    from lumen.sweeps.reports.html import save
    from lumen.sweeps.results import collect

    results = collect(rows)
    print(f"page: {save(results)}")
    if rows.config(rows.rows[0], 0).wandb != "online":
        return 0
    from lumen.sweeps.reports.wandb import publish

    return 0 if publish(results) else 1


@verb("leakage")
def leakage(words: list[str], flags: dict[str, str]) -> int:
    """lumen leakage TABLE [base=EXPERIMENT seeds=1 key=value ...]: how much appearance every row's layout carries"""
    rows = _table(words, flags, leakage)
    from lumen.sweeps.leakage import leakage as probed

    text, path = probed(rows)
    print(f"{text}\n\ntable: {path}")
    return 0


def _print_table(rows: "Table", parts: str | None = None) -> None:
    """Prints a table, or one metric's parts of it, and writes its files."""
    from lumen.sweeps.reports.files import save
    from lumen.sweeps.reports.text import markdown
    from lumen.sweeps.results import collect

    print(markdown(collect(rows, parts)))
    if parts is None:
        print("\n".join(["", *(f"file: {path}" for path in save(collect(rows)))]))


def _table(words: list[str], flags: dict[str, str], asking: Verb) -> "Table":
    from lumen.sweeps.table import read

    base, seeds = flags.pop("base", None), whole("seeds", flags.pop("seeds", "1"))
    only = [name for name in flags.pop("rows", "").split(",") if name]
    return read(one(words, "TABLE", asking), base, seeds, strings(flags), only)
