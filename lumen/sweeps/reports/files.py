"""Files of a table: its text in three formats, a sheet of its rows' images, and its curve."""

from dataclasses import asdict
from pathlib import Path

from lumen.core.files import atomic_path, write
from lumen.sweeps.reports.grid_paths import grid_paths
from lumen.sweeps.reports.text import to_csv, to_latex, to_markdown
from lumen.sweeps.results import Results
from lumen.sweeps.table_cache import CachedJSON, hash_inputs

FORMATS = {".md": to_markdown, ".tex": to_latex, ".csv": to_csv}


def save(results: Results) -> list[Path]:
    """Write runs/tables/<table>-<base>.{md,tex,csv,png}, and -curve.png for a table with a curve; return the paths."""
    paths = []
    for suffix, to_text in FORMATS.items():
        paths.append(results.table.output_path(suffix))
        write(paths[-1], to_text(results).rstrip() + "\n")
    return paths + _save_pictures(results)


def _save_pictures(results: Results) -> list[Path]:
    """Write the pictures, unless those there show the same; drawing imports torch and matplotlib."""
    table, grids = results.table, grid_paths(results.table)
    columns = [results.column(name)[0] for name in results.curve_columns]
    curve = [{row: asdict(cell) for row, cell in cells.items()} for cells in columns]
    paths = {"sheet": table.output_path(".png")} if grids else {}
    paths |= {"curve": table.output_path("-curve.png")} if curve else {}
    if not paths:
        return []
    definition = [list(results.rows), list(grids), results.curve_columns, curve]
    cache = CachedJSON(table.cache_path("-pictures.json"), hash_inputs(definition, grids.values()))
    if not (cache.load() and all(path.exists() for path in paths.values())):
        paths = _draw(results, paths)
        if not any(path in table.problems for path in grids.values()):  # which the next command must print too
            cache.save(sorted(paths))
    return list(paths.values())


def _draw(results: Results, paths: dict[str, Path]) -> dict[str, Path]:
    """Draw the pictures of a table into files, and return the files of those that were drawn."""
    from lumen.core.sheets import make_comparison_sheet
    from lumen.sweeps.reports.grids import load_grids
    from lumen.sweeps.reports.plots import plot_curve, to_image

    pictures = {}
    references = {row.name for row in results.table.rows if row.is_reference}
    grids = load_grids(results.table) if "sheet" in paths else {}
    if compared := {name: grid for name, grid in grids.items() if name not in references} or grids:
        pictures["sheet"] = make_comparison_sheet(compared)
    if "curve" in paths:
        pictures["curve"] = to_image(plot_curve(results))
    for name, picture in pictures.items():
        with atomic_path(paths[name]) as draft:
            picture.save(draft, format="PNG")
    return {name: paths[name] for name in pictures}
