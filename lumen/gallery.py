"""The files of a table: its text in three formats, a sheet of what its rows paint, and its curve."""

from pathlib import Path

from PIL import Image

from lumen.files import beside, write
from lumen.formats import as_csv, latex, markdown
from lumen.pictures import curve, piled
from lumen.results import Results


def save(results: Results) -> list[Path]:
    """Writes runs/tables/<table>-<base>.{md,tex,csv,png}, and -curve.png where the table has two metrics to draw."""
    table, made = results.table, []
    for ending, text in (("md", markdown), ("tex", latex), ("csv", as_csv)):
        made.append(table.file.with_name(f"{table.file.name}.{ending}"))
        write(made[-1], text(results).rstrip() + "\n")
    pictures = {"": _grids(results), "-curve": _curve(results)}
    for ending, picture in pictures.items():
        if picture is not None:
            made.append(table.file.with_name(f"{table.file.name}{ending}.png"))
            with beside(made[-1]) as draft:
                picture.save(draft, format="PNG")
    return made


def _grids(results: Results) -> Image.Image | None:
    """What the first finished seed of each row paints of the same images."""
    table = results.table
    grids = {row.name: places[0] / "grid.png" for row in table.rows if (places := table.places(row))}
    return piled({name: Image.open(path).convert("RGB") for name, path in grids.items()}) if grids else None


def _curve(results: Results) -> Image.Image | None:
    """The rows at their two figures, with the intervals of both."""
    found = [next((c for c in results.columns if c.partition("-")[0] == name), None) for name in results.table.curve]
    if not found or None in found:
        return None
    places = [results.columns.index(column) for column in found]
    cells = {name: [line[place] for place in places] for name, line in results.lines.items()}
    there = {name: pair for name, pair in cells.items() if all(cell.value is not None for cell in pair)}
    if not there:
        return None
    points = {name: [cell.value for cell in pair] for name, pair in there.items()}
    return curve(points, {name: [cell.interval for cell in pair] for name, pair in there.items()}, found)
