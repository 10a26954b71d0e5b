"""Columns of text, aligned and fitted to the width of a terminal."""

from collections.abc import Container

from lumen.core.text import escape_line

GAP = "  "
MIN_LETTERS = 24  # of a last column that is cut; a shorter one is left out
MIN_NAME_LETTERS = 30  # of a first column that is cut


def format_columns(rows: list[list[str]], width: int | None, numbers: Container[int] = ()) -> list[str]:
    """Return aligned lines without spaces at their ends.

    To fit a width, the last column is cut at its end, or left out. Then the first one is cut in its middle, where names
    differ least.

    Args:
        rows: Cells of each line, as many in each.
        width: Most letters of a line; None if there is no limit.
        numbers: Columns that are aligned to the right.
    """
    cells = [[escape_line(cell) for cell in row] for row in rows]
    if width is not None:
        cells = _fit(cells, width)
    widths = _widths(cells)
    lines = []
    for row in cells:
        padded = (
            cell.rjust(size) if column in numbers else cell.ljust(size)
            for column, (cell, size) in enumerate(zip(row, widths, strict=True))
        )
        lines.append(GAP.join(padded).rstrip())
    return lines


def _fit(rows: list[list[str]], width: int) -> list[list[str]]:
    first, *middle, last = _widths(rows)
    free = width - sum(len(GAP) + size for size in middle)
    if free - first - len(GAP) >= min(last, MIN_LETTERS):
        return [[*row[:-1], _cut_end(row[-1], free - first - len(GAP))] for row in rows]
    return [[_cut_middle(row[0], max(free, MIN_NAME_LETTERS)), *row[1:-1]] for row in rows]


def _widths(rows: list[list[str]]) -> list[int]:
    return [max(map(len, column)) for column in zip(*rows, strict=True)]


def _cut_end(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}…"


def _cut_middle(text: str, width: int) -> str:
    if len(text) <= width:
        return text
    tail = (width - 1) // 2
    return f"{text[: width - 1 - tail]}…{text[len(text) - tail :]}"
