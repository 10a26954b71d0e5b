"""Sweeps: the runs of a table as trials, and the launcher that runs those that have not finished."""

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from itertools import pairwise, product
from pathlib import Path
from typing import Any

from lumen.config.schema import Config
from lumen.core.arguments import Argument
from lumen.core.console import announce
from lumen.core.errors import BadConfig, DatasetMissing, UnknownName, suggestion
from lumen.core.plain_text import PlainText, find_refusal
from lumen.core.registry import launchers
from lumen.data.domains import group_domains, verify_unseen
from lumen.data.source import DataSource
from lumen.runs.chain import verify_annotations, verify_chain
from lumen.runs.data import build_source, build_unseen
from lumen.sweeps.table import Table
from lumen.sweeps.trial import Length, Trial


def list_trials(table: Table, only: str | None = None) -> list[Trial]:
    """Return the runs of a table as chains. Rows that evaluate one run, or learn from its images, share a trial.

    Args:
        only: Name of a trial; the others are left out.

    Raises:
        UnknownName: No trial has this name.
    """
    by_directory: dict[Path, Trial] = {}
    seeds: dict[Path, set[int]] = {}
    for row, seed in product(table.rows, range(table.seeds)):
        commands = table.commands(row, seed)
        trial = by_directory.setdefault(run_dir := next(iter(commands)), Trial("", {}, {}))
        seeds.setdefault(run_dir, set()).add(seed)
        trial.tags = list(dict.fromkeys([table.name, *trial.tags, row.name]))
        trial.commands |= commands
        trial.lengths |= {path: _length(config) for path, config in table.trainings(row, seed).items()}
        for part in table.parts:
            trial.needs |= dict(pairwise(reversed(part.commands(row, seed))))
    by_name = {}
    for run_dir, trial in by_directory.items():
        seed = f" seed{min(seeds[run_dir])}" if table.seeds > len(seeds[run_dir]) else ""
        trial.name = ", ".join(trial.tags[1:]) + seed
        by_name[trial.name] = trial
    if only is None:
        return list(by_name.values())
    if only not in by_name:
        raise UnknownName(f"{table.name} has no trial '{only}'; {suggestion(only, by_name)}")
    return [by_name[only]]


def parse_launcher(flags: dict[str, str]) -> Callable[..., None]:
    """Return the launcher that flags name, with its arguments; these flags are removed from `flags`.

    Raises:
        UnknownName: No launcher has this name.
        BadConfig: The launcher has no such argument, or not of this type.
    """
    name = launchers.require(flags.pop("launcher", "local"))
    own = {key: flags.pop(key) for key in list(flags) if key.startswith(f"{name}.")}
    own |= {f"{name}.slots": flags.pop("slots")} if "slots" in flags else {}
    accepted = launchers.arguments(name)
    values = {}
    for key, text in own.items():
        argument = key.partition(".")[2]
        if argument not in accepted:
            raise BadConfig(f"launcher '{name}' has no argument '{argument}'; {suggestion(argument, accepted)}")
        values[argument] = _parse_value(key, text, accepted[argument])
    return partial(launchers.factory(name), **values)


def ablate(table: Table, launcher: Callable[..., None], only: str | None = None) -> list[Trial]:
    """Run all trials of a table that have not finished, or one of them.

    Returns:
        All requested trials, in the state that they ended in.

    Raises:
        BadConfig: A run needs several nodes, or a later run of a chain would be refused.
    """
    if table.config(table.rows[0], 0).nodes > 1:
        raise BadConfig(
            "a run of a sweep uses one node; leave out nodes=, or start the commands that --print shows with srun."
        )
    trials = list_trials(table, only)
    pending = [trial for trial in trials if trial.pending_commands()]
    announce(f"{len(trials)} runs, {len(trials) - len(pending)} of them finished before")
    for problem in (problem for trial in pending for problem in trial.find_problems()):
        print(problem, flush=True)
    if pending:
        _verify_links(table)
        launcher(table=table, trials=pending)
    return trials


def _verify_links(table: Table) -> None:
    """Verify all runs of chains, as far as their configs and data say, before the first one has trained for hours.

    Data that is not on this machine is left to the runs.

    Raises:
        BadConfig: One of them would be refused.
        UnknownName: The data set has no captions for a domain.
    """
    if not table.learns_from_images:
        return
    sources: dict[str, DataSource] = {}
    for row in table.rows:
        configs = list(table.trainings(row, 0).values())
        generating = configs.pop(0) if row.synthetic is not None else None
        for config in configs:
            key = repr((config.data, config.task["name"], config.task.get("images"), config.task.get("unseen")))
            with suppress(DatasetMissing):
                if key not in sources:
                    source = sources[key] = build_source(config)
                    source.train_records()
                    verify_annotations(source, config.task["name"])
                    if (unseen := build_unseen(config, source)) is not None:
                        group_domains(source, verify_unseen(source, unseen))
                if generating is not None:
                    verify_chain(config, generating, sources[key])


def _length(config: Config) -> Length:
    return Length(config.steps, config.batch * config.accumulate * config.devices * config.nodes)


def _parse_value(key: str, text: str, argument: Argument) -> Any:
    """Return the value of a launcher's argument.

    Raises:
        BadConfig: It is not of the argument's type.
    """
    value = argument.read(PlainText(text))
    if refusal := find_refusal(value, argument.default):
        raise BadConfig(f"{key} cannot be {value!r}: {refusal}.")
    if problem := argument.find_problem(value, {}):
        raise BadConfig(f"{key} {problem}.")
    return value
