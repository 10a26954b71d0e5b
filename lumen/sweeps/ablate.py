"""Sweeps: the runs of a table as trials, and the launcher that has them run; what is done is left out."""

from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path

from omegaconf import OmegaConf

from lumen.core.errors import BadConfig, UnknownName, known
from lumen.core.registry import launchers
from lumen.sweeps.table import Table
from lumen.sweeps.trial import Trial


def trials(table: Table, only: str | None = None) -> list[Trial]:
    """The runs of a table, each with all that is measured of it; rows that measure one run in their ways share it.

    Args:
        only: the name of one, to leave out the others.

    Raises:
        UnknownName: none is called so.
    """
    found: dict[Path, Trial] = {}
    for row, seed in product(table.rows, range(table.seeds)):
        commands, config = table.commands(row, seed), table.config(row, seed)
        images = config.batch * config.accumulate * config.devices * config.nodes
        trial = found.setdefault(next(iter(commands)), Trial("", {}, config.steps, images))
        trial.name += f", {row.name}" if trial.name else row.name
        trial.commands |= commands
    for home, trial in found.items():
        trial.name += f" {home.name}" if table.seeds > 1 else ""
    named = {trial.name: trial for trial in found.values()}
    if only is not None and only not in named:
        raise UnknownName(f"{table.name} has no trial '{only}'; {known(only, named)}")
    return [trial for name, trial in named.items() if only in (None, name)]


def launcher(flags: dict[str, str]) -> Callable[..., None]:
    """The launcher that flags name, with its arguments: taken out of `flags`.

    Raises:
        UnknownName: no such launcher.
        BadConfig: it has no such argument, or not of that kind.
    """
    name = launchers.require(flags.pop("launcher", "local"))
    own = {key: flags.pop(key) for key in list(flags) if key.startswith(f"{name}.")}
    own |= {f"{name}.slots": flags.pop("slots")} if "slots" in flags else {}
    accepted, given = launchers.arguments(name), {}
    for key, text in own.items():
        argument = key.partition(".")[2]
        if argument not in accepted:
            raise BadConfig(f"launcher '{name}' has no argument '{argument}'; {known(argument, accepted)}")
        value = OmegaConf.to_container(OmegaConf.from_dotlist([f"value={text}"]), resolve=False)["value"]
        if argument == "slots" and not (accepted[argument].accepts(value) and value and value > 0):
            raise BadConfig(f"slots must be a whole number above 0, not {value!r}.")
        if not accepted[argument].accepts(value):
            raise BadConfig(f"{key} must be {accepted[argument].kind}, not {value!r}.")
        given[argument] = value
    return partial(launchers.factory(name), **given)


def ablate(table: Table, launcher: Callable[..., None], only: str | None = None) -> list[Trial]:
    """Has all that is not finished run, or one trial of it.

    Returns:
        every run that was asked for, as it then stands.

    Raises:
        BadConfig: a run wants several nodes.
    """
    if table.config(table.rows[0], 0).nodes > 1:
        raise BadConfig("a run of a sweep has one node; leave out nodes=, or start what --print shows with srun.")
    every = trials(table, only)
    left = [trial for trial in every if trial.left()]
    print(f"{len(every)} runs, {len(every) - len(left)} of them done before", flush=True)
    if left:
        launcher(table=table, trials=left)
    return every
