"""Commands for tables: run their rows, print them, write reports, probe their layouts."""

import sys
from typing import TYPE_CHECKING

from lumen.cli.command import Command, as_overrides, command, positive_int, read_names, single_argument
from lumen.core.signals import SIGNAL_EXIT_CODE

if TYPE_CHECKING:
    from lumen.sweeps.results import Results
    from lumen.sweeps.table import Table


@command("ablate", "TABLE [base=EXPERIMENT seeds=1 rows=A,B launcher=local trial=A --print --cost key=value ...]")
def ablate(positionals: list[str], options: dict[str, str]) -> int:
    """Run all rows of a table, or with --print list their commands.

    Options:
        base: Experiment to run it on instead of the table's own.
        seeds: Runs of each row, with seeds 0, 1, 2 ...
        rows: Names of rows; the others are left out.
        launcher: Who runs them (`lumen list launchers`); its own options are LAUNCHER.KEY, such as slurm.hours.
        trial: Name of the only run to make, as agents of W&B use it.
        --print: Print the commands of the runs, and run nothing.
        --cost: Print a forecast of all trainings, each counted once, and run nothing.

    Examples:
        lumen ablate table1 base=scenes --print
        lumen ablate table1 base=scenes seeds=3 rows=DINO,SD
        lumen ablate scenes backbone=dino,clip conditioning.components=5,20

    Returns:
        0 if every run is finished, or handed over to a cluster; 75 if the missing ones were stopped: repeat the
        command; 1 if one failed; 2 after a mistake.
    """
    from lumen.sweeps import ablate as sweep
    from lumen.sweeps.wandb_summary import log_sweep, sync_command, unsynced_logs

    only_print, launcher = options.pop("--print", None) is not None, sweep.parse_launcher(options)
    trial_name, with_cost = options.pop("trial", None), options.pop("--cost", None) is not None
    rows = _read_table(positionals, options, ablate)
    if only_print:
        trials = sweep.list_trials(rows, trial_name)
        print("\n".join(line for trial in trials for line in trial.commands.values()))
        return 0
    if with_cost:
        from lumen.sweeps.cost import format_table_cost

        print(format_table_cost(rows))
        return 0
    trials = sweep.ablate(rows, launcher, trial_name)
    if any(trial.state == "submitted" for trial in trials):
        return 0
    if trial_name is None:  # otherwise a W&B agent has asked for one run
        print()
        results = _print_table(rows)
        if any(trial.state != "waiting" for trial in trials):  # otherwise all had finished before
            log_sweep(results)
        if logs := unsynced_logs(rows):
            print(f"{len(logs)} W&B logs are offline; send them with: {sync_command(logs)}")
    for trial in trials:
        if trial.failures:
            print(trial.failure_report(), file=sys.stderr)
    unfinished = [trial for trial in trials if trial.pending_commands()]
    if unfinished and all(trial.state == "stopped" for trial in unfinished):
        return SIGNAL_EXIT_CODE
    return 1 if unfinished else 0


@command("table", "TABLE [base=EXPERIMENT seeds=1 rows=A,B parts=METRIC key=value ...]")
def table(positionals: list[str], options: dict[str, str]) -> int:
    """Print the finished rows of a table, or the breakdown of one metric.

    Options:
        base: Experiment that it was run on instead of the table's own.
        seeds: Runs of each row.
        rows: Names of rows; the others are left out.
        parts: Metric whose values are printed part by part, such as class by class.

    Examples:
        lumen table table1 base=scenes
        lumen table table1 base=scenes parts=miou
        lumen table scenes backbone=dino,clip
    """
    parts = options.pop("parts", None)
    _print_table(_read_table(positionals, options, table), parts)
    return 0


@command("report", "TABLE [base=EXPERIMENT seeds=1 rows=A,B wandb=online key=value ...]")
def report(positionals: list[str], options: dict[str, str]) -> int:
    """Write the finished rows of a table as an HTML page, or with wandb=online as a W&B report.

    Options:
        base: Experiment that it was run on instead of the table's own.
        seeds: Runs of each row.
        rows: Names of rows; the others are left out.
        wandb: online publishes the page as a report on W&B too.

    Examples:
        lumen report table1 base=scenes
        lumen report table1 base=scenes wandb=online
    """
    rows = _read_table(positionals, options, report)
    from lumen.sweeps.reports.html import save
    from lumen.sweeps.results import collect

    results = collect(rows)
    print(f"page: {save(results)}")
    _print_problems(rows)
    if rows.config(rows.rows[0], 0).wandb.mode != "online":
        return 0
    from lumen.sweeps.reports.wandb import publish

    return 0 if publish(results) else 1


@command("leakage", "TABLE [base=EXPERIMENT seeds=1 key=value ...]")
def leakage(positionals: list[str], options: dict[str, str]) -> int:
    """Measure by linear probes how much appearance the layout of each row carries.

    Options:
        base: Experiment to measure it on instead of the table's own.
        seeds: Probes of each row.

    Examples:
        lumen leakage table1 base=scenes
        lumen leakage components base=scenes
    """
    rows = _read_table(positionals, options, leakage)
    from lumen.sweeps.leakage import leakage as measure_leakage

    text, path = measure_leakage(rows)
    print(f"{text}\n\ntable: {path}")
    return 0


def _print_table(rows: "Table", parts: str | None = None) -> "Results":
    """Print a table and write its files, or print the breakdown of one metric. Return its results."""
    from lumen.sweeps.reports.files import save
    from lumen.sweeps.reports.text import to_markdown
    from lumen.sweeps.results import collect

    results = collect(rows, parts)
    print(to_markdown(results))
    if parts is None:
        print("\n".join(["", *(f"file: {path}" for path in save(results))]))
    _print_problems(rows)
    return results


def _print_problems(rows: "Table") -> None:
    for problem in rows.problems.values():
        print(f"lumen: left out: {problem}", file=sys.stderr)


def _read_table(positionals: list[str], options: dict[str, str], caller: Command) -> "Table":
    from lumen.sweeps.table_reader import read_table

    base, seeds = options.pop("base", None), positive_int("seeds", options.pop("seeds", "1"), 10_000)
    row_names = read_names("rows", options.pop("rows", ""))
    return read_table(single_argument(positionals, "TABLE", caller), base, seeds, as_overrides(options), row_names)
