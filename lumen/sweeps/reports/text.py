"""Tables as text: Markdown for terminals and pages, LaTeX, CSV."""

import csv
import io
from collections.abc import Callable
from typing import Any

from lumen.sweeps.cell import MIN_TESTED_IMAGES, Cell
from lumen.sweeps.results import Results

LEGEND = (
    "Brackets: 95 % confidence interval over images. Bold: the best of a column. *: differs from the best with 95 % "
    "confidence {scope} (paired bootstrap; every column and row is tested by itself, from {images} images on)."
)
DIFFERENCE_LEGEND = (
    "Δ: 95 % confidence interval of the difference to {baseline} (paired bootstrap); where it holds 0, there is no "
    "difference."
)
SEEDS_LEGEND = "Several seeds: mean ± standard deviation between seeds; intervals are over images and seeds."
LATEX_ESCAPES = str.maketrans(
    {letter: rf"\{letter}" for letter in "_%&#${}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
)
FORMULA_SIGNS = ("=", "+", "-", "@")


def to_markdown(results: Results) -> str:
    """Return the table with its title, reference rows below the rows, notes, and the commands that are left."""
    table = results.table
    head = ["row", "seeds", *map(_escape_markdown, [*results.headings, *results.published_headings])]
    lines = [format_line(head), format_line(["---"] * len(head))]
    lines += [format_line(cells) for cells in _body(results, _markdown_cell, "–", _escape_markdown)]
    notes = [*format_notes(results), *format_pending(results)]
    return "\n".join([f"{table.title}\n", f"on `{table.base}`", "", *lines, "", *notes]).rstrip()


def to_latex(results: Results) -> str:
    """Return a tabular in the style of booktabs."""
    head, count = ["", *results.headings, *results.published_headings], len(results.rows)
    body = _body(results, _latex_cell, "--", _escape_latex)
    lines = [" & ".join([cells[0], *cells[2:]]) + r" \\" for cells in body]
    comment = f"{results.table.title} On {results.table.base}. {results.protocol} {format_legend(results)}"
    return "\n".join(
        [
            f"% {' '.join(comment.split())}",
            rf"\begin{{tabular}}{{l{'c' * (len(head) - 1)}}}",
            r"\toprule",
            " & ".join(map(_escape_latex, head)) + r" \\",
            r"\midrule",
            *lines[:count],
            *([r"\midrule", *lines[count:]] if lines[count:] else []),
            r"\bottomrule",
            r"\end{tabular}",
            "",
        ]
    )


def to_csv(results: Results) -> str:
    """Return all digits, under the keys of metrics.json, which programs read.

    Of each column these are value, deviation between seeds, ends of the interval, and significance.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    suffixes = ("", "_deviation", "_low", "_high", "_apart")
    suffixes += ("_difference_low", "_difference_high") if results.table.baseline else ()
    columns = [column + suffix for column in results.columns for suffix in suffixes]
    writer.writerow(map(_escape_formula, ["row", "seeds", *columns, *results.published]))
    for name, cells in (results.rows | results.reference_rows).items():
        numbers = [number for cell in cells for number in _csv_numbers(cell)[: len(suffixes)]]
        published = [_escape_formula(values.get(name, "")) for values in results.published.values()]
        writer.writerow([_escape_formula(name), results.num_finished.get(name, ""), *numbers, *published])
    return out.getvalue()


def format_notes(results: Results) -> list[str]:
    """Return sentences about the evaluation and the marks of the table; nothing if no row has finished."""
    if not any(results.num_finished.values()):
        return []
    table = results.table
    seeds = [SEEDS_LEGEND] if table.seeds > 1 else []
    baseline = [DIFFERENCE_LEGEND.format(baseline=table.baseline)] if table.baseline else []
    return [results.protocol, format_legend(results), *seeds, *baseline]


def format_legend(results: Results) -> str:
    """Return a sentence about the marks of the table."""
    return LEGEND.format(scope=results.scope, images=MIN_TESTED_IMAGES)


def format_pending(results: Results) -> list[str]:
    """Return a sentence about the commands that are left, and the one that runs them; nothing if none is left."""
    table = results.table
    pending = (table.pending_commands(row, seed) for row in table.rows for seed in range(table.seeds))
    commands = list(dict.fromkeys(command for commands in pending for command in commands))
    if not commands:
        return []
    count = "1 command is left" if len(commands) == 1 else f"{len(commands)} commands are left"
    return [f"{count}; `{table.command}` runs what is left, and begins with `{commands[0]}`."]


def format_uncertainty(cell: Cell) -> str:
    """Return what stands behind a value: its deviation between seeds, its interval, its range, its difference."""
    text = "" if cell.deviation is None else f" ± {cell.deviation:.2g}"
    if cell.interval:
        text += " [{:.4g}, {:.4g}]".format(*cell.interval)
    if cell.range:
        text += " ({:.4g} to {:.4g})".format(*cell.range)
    if cell.difference:
        low, high = cell.difference
        text += ", no difference" if low <= 0 <= high else f", Δ [{low:+.3g}, {high:+.3g}]"
    return text


def format_line(cells: list[str]) -> str:
    """Return a line of a Markdown table."""
    return f"| {' | '.join(cells)} |"


def _body(
    results: Results, format_cell: Callable[[Cell], str], missing: str, escape: Callable[[str], str]
) -> list[list[str]]:
    """Return the lines of a table as text cells; reference rows are between asterisks."""
    lines, reference_names = [], {row.name for row in results.table.rows if row.is_reference}
    for name, cells in results.rows.items():
        seeds = f"{results.num_finished[name]}/{results.table.seeds}"
        published = [escape(str(values.get(name, missing))) for values in results.published.values()]
        label = f"*{name}*" if name in reference_names else name
        lines.append([escape(label), seeds, *map(format_cell, cells), *published])
    for name, cells in results.reference_rows.items():
        lines.append([escape(f"*{name}*"), "", *map(format_cell, cells), *[""] * len(results.published)])
    return lines


def _markdown_cell(cell: Cell) -> str:
    if cell.value is None:
        return "–"
    value = f"**{cell.value:.4g}**" if cell.best else f"{cell.value:.4g}" + ("*" if cell.significant else "")
    return value + format_uncertainty(cell)


def _latex_cell(cell: Cell) -> str:
    if cell.value is None:
        return "--"
    value = rf"\textbf{{{cell.value:.4g}}}" if cell.best else f"{cell.value:.4g}" + ("$^*$" if cell.significant else "")
    return value + format_uncertainty(cell).replace("±", r"$\pm$").replace("Δ", r"$\Delta$")


def _csv_numbers(cell: Cell) -> list[float | str]:
    numbers = [cell.value, cell.deviation, *(cell.interval or cell.range or ("", "")), int(cell.significant)]
    numbers += cell.difference or ("", "")
    return ["" if number is None else number for number in numbers]


def _escape_latex(text: str) -> str:
    """Return text that LaTeX prints and does not run, in italics if it is between asterisks."""
    is_italic = text.startswith("*")
    escaped = " ".join((text.strip("*") if is_italic else text).split()).translate(LATEX_ESCAPES)
    return rf"\emph{{{escaped}}}" if is_italic else escaped


def _escape_markdown(text: str) -> str:
    """Return text that stays within a cell."""
    return " ".join(text.split()).replace("|", r"\|")


def _escape_formula(value: Any) -> Any:
    """Return a value of which spreadsheets compute nothing: text that begins as a formula gets an apostrophe."""
    if not isinstance(value, str):
        return value
    text = " ".join(value.split())
    return f"'{text}" if text.startswith(FORMULA_SIGNS) else text
