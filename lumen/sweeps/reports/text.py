"""Results as text: Markdown for the terminal and for pages, LaTeX, CSV."""

import csv
import io
from collections.abc import Callable

from lumen.sweeps.results import Cell, Results

LEGEND = (
    "In brackets the 95 % interval over images; bold is the best of a column, and * differs from it with 95 % "
    "confidence (paired bootstrap, every column and row by itself)."
)
SEEDS = "With several seeds: the mean ± the deviation between seeds, the interval over images and seeds."


def markdown(results: Results) -> str:
    """The table with its title, its anchors below the rows, and below all what is still to be run."""
    head = ["row", "seeds", *results.columns, *results.quoted]
    lines = [_line(head), _line(["---"] * len(head))]
    lines += [_line(cells) for cells in _body(results, _marked)]
    return "\n".join(
        [f"{results.table.title}\n", f"on `{results.table.base}`", "", *lines, "", *notes(results), *remaining(results)]
    ).rstrip()


def notes(results: Results) -> list[str]:
    """How the figures were measured and how they are to be read; nothing where there are none."""
    if not any(results.done.values()):
        return []
    return [results.protocol, LEGEND, *([SEEDS] if results.table.seeds > 1 else [])]


def latex(results: Results) -> str:
    """A tabular of booktabs, to be put into a paper."""
    head = ["", *results.columns, *results.quoted]
    body = [[cells[0], *cells[2:]] for cells in _body(results, _typeset, "--")]
    rows = [" & ".join(_escaped(cell) for cell in cells) + r" \\" for cells in body]
    count = len(results.lines)
    return "\n".join(
        [
            rf"% {results.table.title} On {results.table.base}. {results.protocol} {LEGEND}",
            rf"\begin{{tabular}}{{l{'c' * (len(head) - 1)}}}",
            r"\toprule",
            " & ".join(_escaped(cell) for cell in head) + r" \\",
            r"\midrule",
            *rows[:count],
            *([r"\midrule", *rows[count:]] if rows[count:] else []),
            r"\bottomrule",
            r"\end{tabular}",
            "",
        ]
    )


def as_csv(results: Results) -> str:
    """Numbers in full: of each column the figure, its deviation between seeds, the ends of its interval, its mark."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    kinds = ("", "_deviation", "_low", "_high", "_apart")
    writer.writerow(["row", "seeds", *(c + kind for c in results.columns for kind in kinds), *results.quoted])
    for name, cells in (results.lines | results.anchors).items():
        numbers = [n for c in cells for n in (c.value, c.deviation, *(c.interval or c.range or ("", "")), int(c.apart))]
        quoted = [some.get(name, "") for some in results.quoted.values()]
        writer.writerow([name, results.done.get(name, ""), *("" if n is None else n for n in numbers), *quoted])
    return out.getvalue()


def _body(results: Results, show: Callable[[Cell], str], none: str = "–") -> list[list[str]]:
    rows = []
    for name, cells in results.lines.items():
        quoted = [str(some.get(name, none)) for some in results.quoted.values()]
        rows.append([name, f"{results.done[name]}/{results.table.seeds}", *map(show, cells), *quoted])
    for name, cells in results.anchors.items():
        rows.append([f"*{name}*", "", *map(show, cells), *[""] * len(results.quoted)])
    return rows


def remaining(results: Results) -> list[str]:
    """What is missing, with the command that completes it."""
    table = results.table
    left = [words for row in table.rows for seed in range(table.seeds) for words in table.missing(row, seed)]
    return [f"{len(left)} commands are left; `{table.command}` runs them, the first being `{left[0]}`."] if left else []


def _marked(cell: Cell) -> str:
    if cell.value is None:
        return "–"
    value = f"**{cell.value:.4g}**" if cell.best else f"{cell.value:.4g}" + ("*" if cell.apart else "")
    return value + around(cell)


def _typeset(cell: Cell) -> str:
    if cell.value is None:
        return "--"
    value = rf"\textbf{{{cell.value:.4g}}}" if cell.best else f"{cell.value:.4g}" + ("$^*$" if cell.apart else "")
    return value + around(cell).replace("±", r"$\pm$")


def around(cell: Cell) -> str:
    """What stands behind a figure: its deviation between seeds, its interval, its range."""
    text = "" if cell.deviation is None else f" ± {cell.deviation:.2g}"
    if cell.interval:
        text += " [{:.4g}, {:.4g}]".format(*cell.interval)
    if cell.range:
        text += " ({:.4g} to {:.4g})".format(*cell.range)
    return text


def _escaped(text: str) -> str:
    for letter in "_%&#":
        text = text.replace(letter, f"\\{letter}")
    return rf"\emph{{{text.strip('*')}}}" if text.startswith("*") else text


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"
