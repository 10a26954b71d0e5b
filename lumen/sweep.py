"""Tables: rows that differ in one flag, launched one after another, and printed beside published figures."""

import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from lumen import folder
from lumen.config import Config, load
from lumen.errors import BadConfig, UnknownName, known


@dataclass
class Row:
    """One line of a table: a name, the flag that makes it, and what the paper reports for it."""

    name: str
    flag: str
    published: dict[str, float]


@dataclass
class Table:
    """A comparison: one experiment, a row per flag, every row once per seed."""

    title: str
    base: str
    rows: list[Row]
    shared: list[str]  # flags of all rows
    seeds: int

    def config(self, row: Row, seed: int) -> Config:
        return load(self.base, self.flags(row, seed))

    def flags(self, row: Row, seed: int) -> list[str]:
        return [*shlex.split(row.flag), *self.shared, f"seed={seed}"]


def tables() -> list[str]:
    return sorted(Path(f.name).stem for f in (files("experiments") / "tables").iterdir() if f.name.endswith(".yaml"))


def read(name: str, base: str | None = None, seeds: int = 1, shared: Sequence[str] = ()) -> Table:
    """A table by name.

    Args:
        base: the experiment to run it on instead of the table's own.
        seeds: runs per row.

    Raises:
        UnknownName: no such table.
        BadConfig: a row cannot run; every row's errors are in the message.
    """
    if name not in tables():
        raise UnknownName(f"no table is called '{name}'; {known(name, tables())}")
    text = (files("experiments") / "tables" / f"{name}.yaml").read_text()
    spec = OmegaConf.to_container(OmegaConf.create(text))
    rows = [Row(str(n), row["flag"], row.get("published", {})) for n, row in spec["rows"].items()]
    table = Table(text.partition("\n")[0].lstrip("# "), base or spec["base"], rows, list(shared), seeds)
    own = {"seed", *(row.flag.partition("=")[0] for row in rows)} & {flag.partition("=")[0] for flag in shared}
    if own:
        raise BadConfig(
            f"{own.pop()} is what the rows of {name} differ in; leave it out, or say seeds=3 for more seeds."
        )
    errors = []
    for row in rows:
        try:
            table.config(row, 0)
        except BadConfig as error:
            errors.append(f"row {row.name}: {error}")
    if errors:
        raise BadConfig("\n".join(errors))
    return table


def ablate(table: Table) -> list[str]:
    """Runs every row that is not finished, one after another, each as the command a user would type.

    Returns:
        the commands that failed.
    """
    failed = []
    plan = [(row, seed) for row in table.rows for seed in range(table.seeds)]
    for number, (row, seed) in enumerate(plan, 1):
        words = command(table, row, seed)
        done = folder.figures(folder.place_of(table.config(row, seed))) is not None
        print(f"[{number}/{len(plan)}] {row.name} seed {seed}: {'done before' if done else words}", flush=True)
        if not done and launch(words) != 0:
            failed.append(words)
    return failed


def launch(command: str) -> int:
    """Runs a command in a process of its own, as W&B and the GPU's memory want it; gives its exit code."""
    # -P: a folder of the user's called experiments would be taken for LUMEN's.
    return subprocess.run([sys.executable, "-P", "-m", *shlex.split(command)]).returncode


def command(table: Table, row: Row, seed: int) -> str:
    return shlex.join(["lumen", "train", table.base, *table.flags(row, seed)])


def render(table: Table) -> str:
    """The table as Markdown: mean over the finished seeds, the paper's figures in columns of their own."""
    found = {row.name: _means(table, row) for row in table.rows}
    ours = sorted({key for means in found.values() for key in means if key.startswith(("val/", "layout/"))})
    theirs = list(dict.fromkeys(key for row in table.rows for key in row.published))
    head = ["row", "seeds", *ours, *(f"{key} (paper)" for key in theirs)]
    lines = [f"{table.title}\n", f"on `{table.base}`", "", _line(head), _line(["---"] * len(head))]
    for row in table.rows:
        means = found[row.name]
        cells = [f"{means[key]:.4g}" if key in means else "–" for key in ours]
        quoted = [str(row.published.get(key, "–")) for key in theirs]
        lines.append(_line([row.name, f"{means.get('seeds', 0):.0f}/{table.seeds}", *cells, *quoted]))
    return "\n".join(lines)


def _means(table: Table, row: Row) -> dict[str, float]:
    """Figures of a row averaged over its finished seeds, and how many those are."""
    runs = [folder.figures(folder.place_of(table.config(row, seed))) for seed in range(table.seeds)]
    runs = [figures for figures in runs if figures is not None]
    keys = {key for figures in runs for key, value in figures.items() if _is_number(value)}
    return {key: sum(r[key] for r in runs) / len(runs) for key in keys} | ({"seeds": len(runs)} if runs else {})


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"
