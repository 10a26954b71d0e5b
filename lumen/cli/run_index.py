"""Commands for several runs: what runs exist, and the checkpoints that finished ones no longer need."""

import json
import shutil
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from lumen.cli.columns import format_columns
from lumen.cli.command import Command, command
from lumen.core.errors import BadConfig, Mistake
from lumen.core.paths import user_path
from lumen.core.text import escape_line

if TYPE_CHECKING:
    from lumen.runs.inventory import RunInfo

MAX_METRICS = 4  # columns on a terminal; --json has all


@command("runs", "[runs=DIR state=STATE --json key=value ...]")
def list_runs(positionals: list[str], options: dict[str, str]) -> int:
    """List the runs that exist, the last changed first; keys of their configs select some.

    On a terminal long names and commands are cut to its width. In a pipe or a file they are complete.

    Options:
        runs: Directory of all runs.
        state: finished, running, stopped (it resumes), failed (its last command ended with an error), damaged.
        --json: Print a JSON list with all metrics, the command and the settings of each run.

    Examples:
        lumen runs
        lumen runs backbone=dino,clip state=finished
        lumen runs seed=1 --json
    """
    as_json = options.pop("--json", None) is not None
    is_filtered = bool(options.keys() - {"runs"})
    runs = _select(positionals, options, list_runs)
    if as_json:
        print(json.dumps([_describe(run) for run in runs], indent=2))
        return 0
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    nothing = "no run is like that." if is_filtered else "there are no runs yet; lumen train makes one."
    print("\n".join(_format(runs, width)) if runs else nothing)
    problems = [f"{run.directory} {run.state}: {run.problem}" for run in runs if run.problem]
    print("\n".join(map(escape_line, problems)), end="\n" if problems else "")
    return 0


@command("runs prune", "[runs=DIR --yes key=value ...]")
def prune_runs(positionals: list[str], options: dict[str, str]) -> int:
    """Remove the checkpoints of finished runs but the last, and the best one where best= kept it.

    It says what it removes, and asks. A run that another process holds is left as it is, and so is one whose last
    checkpoint is damaged.

    Options:
        runs: Directory of all runs.
        --yes: Do not ask; needed where there is no terminal.

    Examples:
        lumen runs prune
        lumen runs prune experiment=scenes backbone=clip --yes

    Returns:
        0 if everything was removed, or the answer is no; 1 if runs are left as they are; 2 after a mistake.
    """
    from lumen.data.cache import format_bytes
    from lumen.runs.prune import plan_removals

    agreed = options.pop("--yes", None) is not None
    removals = plan_removals(_select(positionals, options, prune_runs))
    if not removals:
        print("no finished run has a checkpoint to remove.")
        return 0
    rows = [[str(r.run.directory), str(len(r.paths)), format_bytes(r.num_bytes)] for r in removals]
    print("\n".join(format_columns([["run", "checkpoints", "size"], *rows], None, numbers=(1, 2))))
    total = format_bytes(sum(removal.num_bytes for removal in removals))
    count = sum(len(removal.paths) for removal in removals)
    if not (agreed or _ask(f"remove these checkpoints, {count} in all of {total}?")):
        print("nothing was removed.")
        return 0
    num_bytes, problems = 0, []
    for removal in removals:
        try:
            num_bytes += removal.carry_out()
        except Mistake as mistake:
            problems.append(f"{removal.run.directory} is left as it is: {mistake}")
    print("\n".join([*map(escape_line, problems), f"{format_bytes(num_bytes)} removed"]))
    return 1 if problems else 0


def _ask(question: str) -> bool:
    """Return whether the user agrees; Ctrl-D in place of an answer means no.

    Raises:
        BadConfig: There is no terminal to ask on.
    """
    if not sys.stdin.isatty():
        raise BadConfig("nothing is removed unasked, and there is no terminal; repeat the command with --yes.")
    with suppress(EOFError):
        return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")
    return False


def _select(positionals: list[str], options: dict[str, str], caller: Command) -> "list[RunInfo]":
    from lumen.runs import inventory
    from lumen.runs.run_filters import select_runs

    if positionals:
        raise BadConfig(f"lumen {caller.verb} does not take {' '.join(positionals)}; write: {caller.usage}.")
    is_named = "runs" in options
    root = user_path(options.pop("runs", "runs"))
    if is_named and not root.is_dir():
        raise BadConfig(f"there is no directory {root}; name the one that holds the runs with runs=DIR.")
    return select_runs(inventory.list_runs(root) if root.is_dir() else [], options)


def _format(runs: "list[RunInfo]", width: int | None) -> list[str]:
    """Return the lines of a table of runs; on a terminal with as many metrics as fit."""
    names = list(dict.fromkeys(name for run in runs for name in run.metrics))
    if width is None:
        return _format_table(runs, names, None)
    for count in range(min(MAX_METRICS, len(names)), -1, -1):
        lines = _format_table(runs, names[:count], width)
        if max(map(len, lines)) <= width:
            break
    return lines


def _format_table(runs: "list[RunInfo]", names: list[str], width: int | None) -> list[str]:
    from lumen.data.cache import format_bytes

    this_year = time.strftime("%Y-")
    rows = [["run", "state", "step", *names, "size", "changed", "command"]]
    for run in runs:
        values = [f"{run.metrics[name]:.4g}" if name in run.metrics else "" for name in names]
        changed = time.strftime("%Y-%m-%d %H:%M", time.localtime(run.changed))
        changed = changed if width is None else changed.removeprefix(this_year)
        step = f"{run.step}/{run.steps}" if run.steps is not None else str(run.step)
        rows.append([str(run.directory), run.state, step, *values, format_bytes(run.num_bytes), changed, run.command])
    return format_columns(rows, width, numbers=range(2, len(names) + 4))


def _describe(run: "RunInfo") -> dict:
    """Return a run as JSON holds it."""
    return {
        "run": str(run.directory),
        "state": run.state,
        "step": run.step,
        "steps": run.steps,
        "metrics": run.metrics,
        "bytes": run.num_bytes,
        "changed": time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(run.changed)),
        "command": run.command,
        "problem": run.problem,
        "settings": run.settings,
    }
