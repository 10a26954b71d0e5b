"""Tables: rows that differ in one flag, read from one file, printed and drawn from the runs they made."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from omegaconf import OmegaConf

from lumen import folder
from lumen.config import load
from lumen.errors import BadConfig, Mistake, UnknownName, known
from lumen.files import beside
from lumen.folder import flat
from lumen.schema import ANCHORS, Config

BESIDE = ("val/loss", "val/response", "layout/explained_variance")  # what stands beside the metrics


@dataclass
class Row:
    """One line of a table: a name, the flag that makes it, and what the paper reports for it."""

    name: str
    flag: str
    published: dict[str, float]


@dataclass
class Table:
    """A comparison: one experiment, a row per flag, every row once per seed."""

    name: str
    title: str
    base: str
    rows: list[Row]
    shared: list[str]  # flags of all rows
    seeds: int
    curve: list[str]  # two metrics to draw against one another, if any

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
    title = text.partition("\n")[0].lstrip("# ")
    table = Table(name, title, base or spec["base"], rows, list(shared), seeds, spec.get("curve", []))
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


def render(table: Table) -> str:
    """The table as Markdown: a figure with its 95 % interval over images, or over seeds the mean and its deviation.

    Below the rows are the anchors, and at the right the paper's figures, in columns of their own.

    Raises:
        Mistake: the rows were measured by different protocols.
    """
    found = {row.name: _runs(table, row) for row in table.rows}
    every = [run for runs in found.values() for run in runs]
    _same_protocol(every)
    keys = sorted({key for runs in found.values() for run in runs for key in run if _is_number(run[key])})
    judged = [key for key in keys if key.startswith("test/")]
    ours = [*judged, *(key for key in BESIDE if key in keys)]
    theirs = list(dict.fromkeys(key for row in table.rows for key in row.published))
    head = ["row", "seeds", *(key.removeprefix("test/") for key in ours), *(f"{key} (paper)" for key in theirs)]
    lines = [f"{table.title}\n", f"on `{table.base}`", "", _line(head), _line(["---"] * len(head))]
    for row in table.rows:
        runs = found[row.name]
        quoted = [str(row.published.get(key, "–")) for key in theirs]
        lines.append(_line([row.name, f"{len(runs)}/{table.seeds}", *(_cell(runs, key) for key in ours), *quoted]))
    for kind, title in ANCHORS.items():
        cells = [_anchor(every, key.replace("test/", f"{kind}/")) for key in judged]
        if set(cells) - {"–"}:
            lines.append(_line([f"*{title}*", "", *cells, *[""] * (len(head) - 2 - len(cells))]))
    return "\n".join(lines)


def draw(table: Table) -> list[Path]:
    """Pictures of the finished rows: what each paints of the same images, and the curve where the table has one."""
    from PIL import Image

    from lumen.pictures import curve, piled  # torch comes with them

    name = f"{table.name}-{Path(table.base).stem}"
    place = Path(table.config(table.rows[0], 0).runs) / "tables"
    grids = {row.name: folder.place_of(table.config(row, 0)) / "grid.png" for row in table.rows}
    shown = {row: Image.open(path).convert("RGB") for row, path in grids.items() if folder.figures(path.parent)}
    keys = [f"test/{key}" for key in table.curve]
    points = {}
    for row in table.rows:
        judged = [run for run in _runs(table, row) if set(keys) <= run.keys()]
        points |= {row.name: [[run[key] for key in keys] for run in judged]} if judged else {}
    pictures = {}
    if shown:
        pictures[place / f"{name}.png"] = piled(shown)
    if keys and points:
        pictures[place / f"{name}-curve.png"] = curve(points, table.curve)
    for path, picture in pictures.items():
        with beside(path) as draft:
            picture.save(draft, format="PNG")
    return list(pictures)


def _runs(table: Table, row: Row) -> list[dict[str, Any]]:
    """The figures of a row's finished runs."""
    runs = [folder.figures(folder.place_of(table.config(row, seed))) for seed in range(table.seeds)]
    return [figures for figures in runs if figures is not None]


def _same_protocol(runs: list[dict[str, Any]]) -> None:
    """
    Raises:
        Mistake: figures were measured in different ways; the message names how.
    """
    rules = [flat(run["protocol"]) for run in runs if "protocol" in run]
    values = {key: {str(one.get(key)) for one in rules} for key in sorted(set().union(*rules) - {"hash"})}
    apart = {key: sorted(some) for key, some in values.items() if len(some) > 1}
    if apart:
        said = "; ".join(f"{key}: {' or '.join(some)}" for key, some in apart.items())
        raise Mistake(
            f"the rows were not measured alike ({said}), so they make no table; measure them anew: remove the "
            "metrics.json of those that differ and repeat lumen ablate."
        )


def _anchor(runs: list[dict[str, Any]], key: str) -> str:
    """As `_cell`, but where the rows differ their mean, and the least and most."""
    values = [run[key] for run in runs if key in run]
    if len(set(values)) < 2:
        return _cell(runs, key)
    return f"{mean(values):.4g} ({min(values):.4g} to {max(values):.4g})"


def _cell(runs: list[dict[str, Any]], key: str) -> str:
    values = [run[key] for run in runs if key in run]
    if not values:
        return "–"
    if len(set(values)) > 1:
        return f"{mean(values):.4g} ± {stdev(values):.2g}"
    interval = next((run[f"{key}_95"] for run in runs if f"{key}_95" in run), None)
    return f"{values[0]:.4g}" + (f" [{interval[0]:.4g}, {interval[1]:.4g}]" if interval else "")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"
