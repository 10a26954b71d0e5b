"""Files of the image grids of a table's rows."""

from pathlib import Path

from lumen.sweeps.table import Table


def grid_paths(table: Table) -> dict[str, Path]:
    """Return the image grid of the first finished seed of each row; where there are several runs, of the first."""
    runs = {row.name: table.finished_runs(row)[:1] for row in table.rows}
    paths = {name: directory / "grid.png" for name, directories in runs.items() for directory in directories}
    return {name: path for name, path in paths.items() if path.exists()}
