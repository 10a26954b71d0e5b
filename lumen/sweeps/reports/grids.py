"""Image grids of a table's rows."""

from lumen.core.visualize import Grid, load_grid
from lumen.runs.directory import load_results
from lumen.sweeps.reports.grid_paths import grid_paths
from lumen.sweeps.table import Table


def load_grids(table: Table) -> dict[str, Grid]:
    """Return the image grid of each row; those that are damaged are left out, and noted in `Table.problems`."""
    grids = {}
    for name, path in grid_paths(table).items():
        columns = 2 + load_results(path.parent).get("sampling", {}).get("images", 1)
        with table.noting(path):
            grids[name] = load_grid(path, columns)
    return grids
