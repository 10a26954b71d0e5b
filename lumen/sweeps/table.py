"""Tables: rows that differ in one flag, read from one file; which run each row is, and the commands that make it."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from lumen.config import identity
from lumen.config.experiment import dump, load, reload
from lumen.config.schema import PLACE, Config
from lumen.core.errors import BadConfig, UnknownName, known
from lumen.runs import directory as folder

EVAL = "eval."  # what a flag begins with that measures every row anew


@dataclass
class Row:
    """One line of a table: a name, the flags that train it and measure it, and what the paper reports for it."""

    name: str
    flag: str
    eval: str  # flags of lumen eval, where the row is not measured as it was trained
    published: dict[str, dict[str, float]]  # by data set


@dataclass
class Table:
    """A comparison: one experiment, a row per flag, every row once per seed."""

    name: str
    title: str
    base: str
    rows: list[Row]
    shared: list[str]  # flags of all rows
    eval: list[str]  # flags that all rows are measured anew with
    seeds: int
    curve: list[str]  # two metrics to draw against one another, if any
    some: list[str]  # rows= where rows were left out, and flags of single rows: as they were typed
    # What is drawn of a table asks for the config of each row a dozen times, and to read one takes 25 ms.
    configs: dict[tuple[str, ...], Config] = field(default_factory=dict, repr=False, compare=False)

    def config(self, row: Row, seed: int, anew: Sequence[str] = ()) -> Config:
        """What a row is trained with, or measured anew with under further flags; shared, so nobody may change it."""
        key = (self.base, *self.flags(row, seed), EVAL, *anew)
        if key not in self.configs:
            whole = reload(dump(self.config(row, seed)), anew) if anew else load(self.base, self.flags(row, seed))
            self.configs[key] = whole
        return self.configs[key]

    def flags(self, row: Row, seed: int) -> list[str]:
        return [*shlex.split(row.flag), *self.shared, f"seed={seed}"]

    def commands(self, row: Row, seed: int) -> dict[Path, str]:
        """What makes a row, in order: the folder that each command fills."""
        place = folder.place_of(self.config(row, seed))
        made = {place: shlex.join(["lumen", "train", self.base, *self.flags(row, seed)])}
        anew = [*shlex.split(row.eval), *self.eval]
        if anew:
            made[folder.eval_of(place, self.config(row, seed, anew))] = shlex.join(["lumen", "eval", str(place), *anew])
        return made

    def missing(self, row: Row, seed: int) -> list[str]:
        """The commands of a row that have not been run to their end."""
        return [words for place, words in self.commands(row, seed).items() if folder.figures(place) is None]

    def places(self, row: Row) -> list[Path]:
        """The folders of a row's finished runs, one per seed."""
        last = [list(self.commands(row, seed))[-1] for seed in range(self.seeds)]
        return [place for place in last if folder.figures(place) is not None]

    @property
    def command(self) -> str:
        """What runs all of it."""
        flags = [*self.shared, *(EVAL + flag for flag in self.eval)]
        words = ["lumen", "ablate", self.name, f"base={self.base}", f"seeds={self.seeds}"]
        return shlex.join([*words, *self.some, *flags])

    @property
    def file(self) -> Path:
        """Where it goes, without the ending: each set of flags has files of its own."""
        flags = [*self.shared, *(EVAL + flag for flag in self.eval)]
        flags = [flag for flag in flags if flag.partition("=")[0] not in PLACE]
        flags += [f"seeds={self.seeds}"] if self.seeds > 1 else []
        name = "-".join([self.name, Path(self.base).stem, *([identity.safe(",".join(sorted(flags)))] if flags else [])])
        return Path(self.config(self.rows[0], 0).runs) / "tables" / name


def tables() -> list[str]:
    return sorted(Path(f.name).stem for f in (files("experiments") / "tables").iterdir() if f.name.endswith(".yaml"))


def read(
    name: str, base: str | None = None, seeds: int = 1, flags: Sequence[str] = (), only: Sequence[str] = ()
) -> Table:
    """A table by name.

    Args:
        base: the experiment to run it on instead of the table's own.
        seeds: runs per row.
        flags: of all rows; those that begin with "eval." measure them anew, those with a row's name are its own.
        only: names of rows, to leave out the others.

    Raises:
        UnknownName: no such table, or no such row.
        BadConfig: a row cannot run; every mistake is in the message, with the rows that it is in.
    """
    if name not in tables():
        raise UnknownName(f"no table is called '{name}'; {known(name, tables())}")
    text = (files("experiments") / "tables" / f"{name}.yaml").read_text()
    spec = OmegaConf.to_container(OmegaConf.create(text))
    names = {str(n): row for n, row in spec["rows"].items()}
    if unknown := [n for n in only if n not in names]:
        raise UnknownName(f"{name} has no row '{unknown[0]}'; {known(unknown[0], list(names))}")
    rows = [_row(n, row, flags) for n, row in names.items() if n in (only or names)]
    some = [f"rows={','.join(only)}"] if only else []
    some += [flag for flag in flags if flag.partition(".")[0] in names]
    flags = [flag for flag in flags if flag.partition(".")[0] not in names]
    shared = [flag for flag in flags if not flag.startswith(EVAL)]
    anew = [flag.removeprefix(EVAL) for flag in flags if flag.startswith(EVAL)]
    title = text.partition("\n")[0].lstrip("# ")
    table = Table(name, title, base or spec["base"], rows, shared, anew, seeds, spec.get("curve", []), some)
    own = {"seed", *(_key(row.flag) for row in rows if row.flag)} & {_key(flag) for flag in shared}
    own |= {_key(row.eval) for row in rows if row.eval} & {_key(flag) for flag in anew}
    if own:
        raise BadConfig(
            f"{own.pop()} is what the rows of {name} differ in; leave it out, or say seeds=3 for more seeds."
        )
    errors: dict[str, list[str]] = {}  # the rows that each mistake is in
    for row in rows:
        try:
            table.commands(row, 0)
        except BadConfig as error:
            errors.setdefault(str(error), []).append(row.name)
    if errors:
        said = ("" if len(some) == len(rows) else f"row {', '.join(some)}: " for some in errors.values())
        raise BadConfig("\n".join(f"{where}{error}" for where, error in zip(said, errors, strict=True)))
    return table


def _row(name: str, spec: dict[str, Any], flags: Sequence[str]) -> Row:
    """A row with the flags that are its own, as in ade20k.data.root=DIR: of its measuring where it has one."""
    row = Row(name, spec.get("flag", ""), spec.get("eval", ""), spec.get("published", {}))
    own = shlex.join(flag.removeprefix(f"{name}.") for flag in flags if flag.startswith(f"{name}."))
    if own and row.eval:
        row.eval = f"{row.eval} {own}"
    elif own:
        row.flag = f"{row.flag} {own}".strip()
    return row


def _key(flag: str) -> str:
    return flag.partition("=")[0]
