"""Values beside the rows of a table: of reference rows, and as the paper reports them."""

from dataclasses import replace
from statistics import mean
from typing import Any

from lumen.core.registry import tasks
from lumen.evaluation.keys import MetricKey
from lumen.sweeps.cell import Cell
from lumen.sweeps.table import Table


def reference_rows(
    runs: list[tuple[str, dict[str, Any]]], keys: list[MetricKey], table: Table
) -> dict[str, list[Cell]]:
    """Return the reference rows by label; where rows are evaluated in several ways, those of each way.

    Args:
        runs: Overrides of the evaluation of each finished run, and the content of its metrics.json.
    """
    first_rows = {row.eval: row.name for row in reversed(table.rows)}
    labels: dict[str, str] = {}
    for row in table.rows:
        labels |= tasks.literal(table.config(row, 0).task["name"], "reference_rows", {})
    rows = {}
    for overrides in dict.fromkeys(row.eval for row in table.rows):
        values = [values for own, values in runs if own == overrides]
        for kind, label in labels.items():
            cells = [_reference_cell(values, replace(key, kind=kind)) if key.kind == "test" else Cell() for key in keys]
            if any(cell.value is not None for cell in cells):
                rows[f"{label}, {first_rows[overrides]}" if len(first_rows) > 1 else label] = cells
    return rows


def _reference_cell(values: list[dict[str, Any]], key: MetricKey) -> Cell:
    """Return the value that all runs have of a reference row, or the mean and range of different ones."""
    numbers = [run[str(key)] for run in values if str(key) in run]
    if not numbers:
        return Cell()
    if len(set(numbers)) > 1:
        return Cell(mean(numbers), range=(min(numbers), max(numbers)))
    name = str(replace(key, interval=True))
    interval = next((run[name] for run in values if name in run), None) if key.part is None else None
    return Cell(numbers[0], interval=interval and tuple(interval))


def published_columns(table: Table) -> dict[str, dict[str, float]]:
    """Return the paper's values for the table's data set, or else for the first data set that the paper reports."""
    data = table.config(table.rows[0], 0).data["name"]
    published = list(dict.fromkeys(name for row in table.rows for name in row.published))
    if not published:
        return {}
    name = data if data in published else published[0]
    values = {row.name: row.published.get(name, {}) for row in table.rows}
    metric_names = dict.fromkeys(metric for row in values.values() for metric in row)
    return {
        f"{metric} (paper, {name})": {row: numbers[metric] for row, numbers in values.items() if metric in numbers}
        for metric in metric_names
    }
