"""Summary of an evaluation: a table of metric values, their intervals and reference rows, as plain text."""

from collections.abc import Mapping
from dataclasses import replace
from itertools import zip_longest
from textwrap import wrap
from typing import Any

from lumen.core.interfaces import Metric
from lumen.evaluation.headings import heading
from lumen.evaluation.keys import MetricKey, metric_keys

LABEL_WIDTH = 9  # characters of a heading, if its words allow it
LEGEND = "↑ higher is better, ↓ lower is better; confidence intervals over {images} images"


def format_summary(values: Mapping[str, Any], metrics: dict[str, Metric], reference_rows: dict[str, str]) -> str:
    """Return a table with a line per metric, which fits into 80 columns for the reference rows of the paper.

    Args:
        values: Content of metrics.json.
        metrics: Metrics by name.
        reference_rows: Label of each reference row by its key.
    """
    by_key = {metric.key: metric for metric in metrics.values()}
    keys = [key for key in metric_keys(values, "test") if key.metric in by_key and key.part is None]
    keys = [key for key in keys if not key.interval]
    rows = {
        row: label for row, label in reference_rows.items() if any(str(replace(k, kind=row)) in values for k in keys)
    }
    loss = MetricKey("val", "loss")
    if not keys:
        return f"{heading(loss)} {format_number(values[str(loss)])}"
    heads = [["samples"], ["95 %", "interval"], *(wrap(label, LABEL_WIDTH) for label in rows.values())]
    lines = [["", *head] for head in zip_longest(*heads, fillvalue="")]
    lines.append([f"{heading(loss)} ↓", format_number(values[str(loss)]), *[""] * (len(rows) + 1)])
    for key in keys:
        arrow = "↑" if by_key[key.metric].higher_is_better else "↓"
        references = [values.get(str(replace(key, kind=row))) for row in rows]
        interval = " to ".join(map(format_number, values.get(str(replace(key, interval=True)), [])))
        numbers = [format_number(values[str(key)]), interval, *map(format_number, references)]
        lines.append([f"{heading(key)} {arrow}", *numbers])
    return "\n".join([*_align(lines), LEGEND.format(images=values["protocol"]["images"])])


def format_number(value: float | None) -> str:
    """Return a number with three significant digits and no exponent; nothing for None."""
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _align(lines: list[list[str]]) -> list[str]:
    """Return lines of cells as text: the first column to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [
        "  ".join(
            [cells[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True))]
        ).rstrip()
        for cells in lines
    ]
