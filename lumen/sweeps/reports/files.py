"""The files of a table: its text in three formats, a sheet of what its rows paint, and its curve."""

from pathlib import Path

from PIL import Image

from lumen.core.files import beside, write
from lumen.core.visualize import piled
from lumen.sweeps.reports.plots import curve, image
from lumen.sweeps.reports.text import as_csv, latex, markdown
from lumen.sweeps.results import Results


def save(results: Results) -> list[Path]:
    """Writes runs/tables/<table>-<base>.{md,tex,csv,png}, and -curve.png where the table has two metrics to draw."""
    table, made = results.table, []
    for ending, text in (("md", markdown), ("tex", latex), ("csv", as_csv)):
        made.append(table.file.with_name(f"{table.file.name}.{ending}"))
        write(made[-1], text(results).rstrip() + "\n")
    drawn = curve(results)
    pictures = {"": _grids(results), "-curve": image(drawn) if drawn else None}
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
