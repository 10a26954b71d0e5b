"""What the finished rows of a table came to: figures, intervals, differences from the best, anchors, the paper's."""

from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lumen.config.identity import flat
from lumen.core.bootstrap import percentile_interval
from lumen.core.errors import Mistake
from lumen.core.random import generator
from lumen.core.registry import metrics
from lumen.evaluation.anchors import ANCHORS
from lumen.evaluation.scores import load_samples
from lumen.runs import directory as folder
from lumen.sweeps.table import Row, Table

BESIDE = ("val/loss", "val/response", "layout/explained_variance")  # what stands beside the metrics


@dataclass
class Cell:
    """One figure of a table; `value` is None where there is none."""

    value: float | None = None
    deviation: float | None = None  # between seeds
    interval: tuple[float, float] | None = None  # 95 %, over images and, where there are several, seeds
    range: tuple[float, float] | None = None  # the least and the most, of an anchor that differs between rows
    best: bool = False
    apart: bool = False  # differs from the best with 95 % confidence


@dataclass
class Results:
    """A table as it stands now: a line is its name and its cells, in the order of the columns."""

    table: Table
    columns: list[str]
    lines: dict[str, list[Cell]]
    done: dict[str, int]  # finished seeds of each row
    anchors: dict[str, list[Cell]]
    quoted: dict[str, dict[str, float]]  # by column, then row: what the paper reports
    protocol: str

    @property
    def curve(self) -> list[str]:
        """The two columns to draw against one another; none where the table has no such two, or they are unmeasured."""
        found = [next((c for c in self.columns if c.partition("-")[0] == name), None) for name in self.table.curve]
        return [column for column in found if column is not None] if None not in found else []

    def column(self, name: str) -> tuple[dict[str, Cell], dict[str, Cell]]:
        """What rows, and anchors, have in a column; those without a figure are left out."""
        place = self.columns.index(name)
        lines, anchors = (
            {row: cells[place] for row, cells in kind.items() if cells[place].value is not None}
            for kind in (self.lines, self.anchors)
        )
        return lines, anchors


@dataclass
class Run:
    """A finished run of a row: its figures, and what each image brought to each metric."""

    figures: dict[str, Any]
    rows: dict[str, Float[Tensor, "b ..."]]
    eval: str

    @classmethod
    def load(cls, place: Path, row: Row) -> "Run":
        file = place / "samples.parquet"
        return cls(folder.figures(place), load_samples(file).rows if file.exists() else {}, row.eval)


def collect(table: Table, parts: str | None = None) -> Results:
    """Reads what is finished.

    Args:
        parts: the metric whose further figures, such as one per class, are the columns.

    Raises:
        Mistake: rows that should be comparable were measured by different protocols.
    """
    runs = {row.name: [Run.load(place, row) for place in table.places(row)] for row in table.rows}
    every = [run for some in runs.values() for run in some]
    for kind in {row.eval for row in table.rows}:
        _same_protocol([run.figures for run in every if run.eval == kind])
    columns = _columns(every, parts, list(table.config(table.rows[0], 0).metrics))
    cells = [_column(runs, column) for column in columns]
    lines = {name: [column[name] for column in cells] for name in runs}
    return Results(
        table,
        [column.removeprefix("test/") for column in columns],
        lines,
        {name: len(some) for name, some in runs.items()},
        _anchors(every, columns, table),
        _quoted(table),
        _protocol(every),
    )


def _columns(runs: list[Run], parts: str | None, order: list[str]) -> list[str]:
    """The metrics in the order of the experiment and what stands beside them, or the parts of one metric."""
    keys = sorted({key for run in runs for key in run.figures if _is_number(run.figures[key])})
    judged = [key for key in keys if key.startswith("test/")]
    if parts is None:
        whole = [key for key in judged if key.count("/") == 1]
        place = {name: number for number, name in enumerate(order)}
        return sorted(whole, key=lambda key: place.get(_metric(key), len(place))) + [k for k in BESIDE if k in keys]
    found = [key for key in judged if key.count("/") == 2 and _metric(key) == parts]
    if runs and not found:
        have = ", ".join(sorted({_metric(key) for key in judged if key.count("/") == 2})) or "nothing"
        raise Mistake(f"no run of this table has parts of '{parts}'; there are parts of: {have}.")
    return found


def _metric(column: str) -> str:
    """The metric behind a column such as test/lpips-scenes or test/miou/sky."""
    return column.split("/")[1].partition("-")[0]


def _column(runs: dict[str, list[Run]], column: str) -> dict[str, Cell]:
    """The cells of a column, by row; rows that painted the same images are compared with the best of them."""
    drawn = {name: _drawn(some, column) for name, some in runs.items()}
    cells = {name: _cell(some, column, drawn[name]) for name, some in runs.items()}
    there = {name: cell for name, cell in cells.items() if cell.value is not None}
    alike = len({run.eval for some in runs.values() for run in some}) == 1
    if column.startswith("test/") and column.count("/") == 1 and alike and len(there) > 1:
        sign = 1 if metrics.factory(_metric(column)).higher_is_better else -1
        best = max(there, key=lambda name: sign * there[name].value)
        there[best].best = True
        for name in there.keys() - {best}:
            if drawn[name] is not None and drawn[best] is not None:
                # The paired bootstrap: both are drawn on the same images, so what makes an image hard cancels out.
                low, high = percentile_interval(drawn[best] - drawn[name])
                there[name].apart = low > 0 or high < 0
    return cells


def _cell(runs: list[Run], column: str, drawn: Tensor | None) -> Cell:
    values = [run.figures[column] for run in runs if column in run.figures]
    if not values:
        return Cell()
    interval = percentile_interval(drawn) if drawn is not None else None
    if interval is None and len(values) == 1:
        interval = runs[0].figures.get(f"{column}_95")
    return Cell(mean(values), stdev(values) if len(values) > 1 else None, interval and tuple(interval))


def _drawn(runs: list[Run], column: str) -> Float[Tensor, " draws"] | None:
    """Figures for images and seeds drawn anew; rows that painted the same images have the same draws."""
    title = column.removeprefix("test/")
    rows = [run.rows.get(title) for run in runs]
    if not rows or any(each is None for each in rows):
        return None
    drawn = torch.stack([metrics.factory(_metric(column)).bootstrap_resamples(each) for each in rows])
    seeds = torch.randint(len(rows), drawn.shape, generator=generator("bootstrap seeds"))
    return drawn.gather(0, seeds).mean(0) if len(rows) > 1 else drawn[0]


def _anchors(runs: list[Run], columns: list[str], table: Table) -> dict[str, list[Cell]]:
    """What to hold the rows against; where rows are measured in several ways, of each way its own."""
    names = {row.eval: row.name for row in reversed(table.rows)}
    found = {}
    for way in dict.fromkeys(row.eval for row in table.rows):
        same = [run.figures for run in runs if run.eval == way]
        for kind, title in ANCHORS.items():
            keys = [c.replace("test/", f"{kind}/", 1) if c.startswith("test/") else None for c in columns]
            cells = [_anchor(same, key) for key in keys]
            if any(cell.value is not None for cell in cells):
                found[f"{title}, {names[way]}" if len(names) > 1 else title] = cells
    return found


def _anchor(figures: list[dict[str, Any]], key: str | None) -> Cell:
    values = [each[key] for each in figures if key in each]
    if not values:
        return Cell()
    if len(set(values)) > 1:
        return Cell(mean(values), range=(min(values), max(values)))
    interval = next((each[f"{key}_95"] for each in figures if f"{key}_95" in each), None)
    return Cell(values[0], interval=interval and tuple(interval))


def _quoted(table: Table) -> dict[str, dict[str, float]]:
    """The paper's figures of the table's own data set; of another data set those of the first that it reports."""
    mine = table.config(table.rows[0], 0).data["name"]
    known = list(dict.fromkeys(name for row in table.rows for name in row.published))
    if not known:
        return {}
    name = mine if mine in known else known[0]
    keys = dict.fromkeys(key for row in table.rows for key in row.published.get(name, {}))
    values = {row.name: row.published.get(name, {}) for row in table.rows}
    return {f"{key} (paper, {name})": {row: some[key] for row, some in values.items() if key in some} for key in keys}


def _protocol(runs: list[Run]) -> str:
    rules = [run.figures["protocol"] for run in runs if "protocol" in run.figures]
    if not rules:
        return ""
    one, sampling = rules[0], rules[0]["sampling"]
    said = " ".join(dict.fromkeys(rule["hash"] for rule in rules))
    return (
        f"{one['images']} held-out images, {one['samples']} samples of each, {sampling['sampler']} in "
        f"{sampling['steps']} steps at guidance {sampling['guidance']}; protocol {said}."
    )


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


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
