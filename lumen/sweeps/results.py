"""Results of a table's finished runs: cells with their statistics, reference rows and published values."""

from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import mean, stdev
from typing import TYPE_CHECKING, Any

from lumen.config.identity import sanitize
from lumen.core.errors import BadFile, Mistake
from lumen.evaluation.headings import heading
from lumen.evaluation.keys import MetricKey, higher_is_better, metric_keys
from lumen.runs.directory import load_provenance, load_results
from lumen.sweeps.cell import Cell
from lumen.sweeps.protocol import describe_protocol, verify_comparable, verify_data
from lumen.sweeps.reference_values import published_columns, reference_rows
from lumen.sweeps.table import Row, Table
from lumen.sweeps.table_cache import CachedJSON, hash_inputs

if TYPE_CHECKING:
    from lumen.sweeps.statistics import Scores

# Values of training that stand beside the metrics.
LEARNING_CURVES = ("val/loss", "val/response")  # also plotted by step
AUXILIARY_COLUMNS = (*LEARNING_CURVES, "layout/explained_variance")


@dataclass
class Results:
    """Results of a table: cells by row, in the order of the columns.

    Attributes:
        keys: Key of each column.
        rows: Cells of each row.
        num_finished: Finished seeds of each row.
        reference_rows: Cells of each reference row, by its label.
        published: Values that the paper reports, by column and row.
        protocol: Sentence about the evaluation.
    """

    table: Table
    keys: list[MetricKey]
    rows: dict[str, list[Cell]]
    num_finished: dict[str, int]
    reference_rows: dict[str, list[Cell]]
    published: dict[str, dict[str, float]]
    protocol: str

    @property
    def columns(self) -> list[str]:
        """Heading of each column: the key, without its kind if that is "test"."""
        return [key.column if key.kind == "test" else str(key) for key in self.keys]

    @property
    def headings(self) -> list[str]:
        """Name of each column for readers."""
        return [heading(key) for key in self.keys]

    @property
    def published_headings(self) -> list[str]:
        """Name of each column of published values for readers."""
        names = [name.partition(" ") for name in self.published]
        return [f"{heading(MetricKey('test', metric))} {source}" for metric, _, source in names]

    @property
    def scope(self) -> str:
        """Words that say over which images and seeds a difference was tested."""
        seeds = self.table.seeds
        return "over images, one training seed" if seeds == 1 else f"over images and {seeds} training seeds"

    @property
    def curve_columns(self) -> list[str]:
        """Two columns to plot against each other; none if the table names none, or they were not measured."""
        columns = {
            key.registry_name: key.column for key in reversed(self.keys) if key.kind == "test" and key.part is None
        }
        names = [columns.get(metric) for metric in self.table.curve]
        return [] if None in names else names

    def column(self, name: str) -> tuple[dict[str, Cell], dict[str, Cell]]:
        """Return the cells of a column by row, and by reference row; those without a value are left out."""
        index = self.columns.index(name)
        rows, reference_rows = (
            {name: cells[index] for name, cells in group.items() if cells[index].value is not None}
            for group in (self.rows, self.reference_rows)
        )
        return rows, reference_rows


@dataclass
class Run:
    """Finished run of a row.

    Attributes:
        values: Content of metrics.json.
        eval: Overrides of `lumen eval` that make the row.
        data: Fingerprint of its data set on disk; None if the run did not record it, or if the data is rendered.
    """

    values: dict[str, Any]
    eval: str
    data: str | None


def collect(table: Table, parts: str | None = None) -> Results:
    """Return the results of the runs that have finished. Statistics of unchanged runs are read from a cache.

    Runs with damaged files are left out, and noted in `Table.problems`.

    Args:
        parts: Metric whose breakdown, such as one value per class, makes the columns.

    Raises:
        Mistake: Rows that should be comparable were evaluated under different protocols or trained on different data.
    """
    if len(table.parts) > 1:
        return _join_columns([collect(part, parts) for part in table.parts if _has_metric(part, parts)], table)
    directories = {row.name: table.finished_runs(row) for row in table.rows}
    cache = _cell_cache(table, parts, directories)  # before the files are read: they may change meanwhile
    content = cache.load() if cache else None
    scores = _load_scores(table, directories) if cache and content is None else None
    if any(path in table.problems for paths in directories.values() for path in paths):
        return collect(table, parts)  # without the runs whose scores are damaged
    runs = {row.name: [_load_run(table, row, path) for path in directories[row.name]] for row in table.rows}
    all_runs = [run for row_runs in runs.values() for run in row_runs]
    for overrides in {row.eval for row in table.rows}:
        group = [run for run in all_runs if run.eval == overrides]
        verify_data([run.data for run in group if run.data])  # first: of other data, the protocols differ as well
        verify_comparable(_protocols(group))
    keys = _column_keys([run.values for run in all_runs], parts, list(table.config(table.rows[0], 0).metrics))
    return Results(
        table=table,
        keys=keys,
        rows=_compute_cells(table, runs, keys, scores, cache) if content is None else _parse_cells(content, runs),
        num_finished={name: len(row_runs) for name, row_runs in runs.items()},
        reference_rows=reference_rows([(run.eval, run.values) for run in all_runs], keys, table),
        published=published_columns(table),
        protocol=describe_protocol(_protocols(all_runs)),
    )


def _has_metric(table: Table, name: str | None) -> bool:
    """Return whether the runs of a table are scored by a metric, if one is named."""
    return name is None or name in table.config(table.rows[0], 0).metrics


def _join_columns(results: list[Results], table: Table) -> Results:
    """Return the columns of metrics of several tables of the same rows, side by side.

    Raises:
        Mistake: There are none.
    """
    if not results:
        raise Mistake(f"no run of {table.name} has such a metric; its metrics stand in the head of the table.")
    columns = [[i for i, key in enumerate(part.keys) if key.kind == "test"] for part in results]
    labels = dict.fromkeys(label for part in results for label in part.reference_rows)

    def join(cells_by_part: list[list[Cell]]) -> list[Cell]:
        return [cells[i] for cells, indices in zip(cells_by_part, columns, strict=True) for i in indices]

    blank = [[Cell() for _ in part.keys] for part in results]
    return Results(
        table=table,
        keys=[part.keys[i] for part, indices in zip(results, columns, strict=True) for i in indices],
        rows={row.name: join([part.rows[row.name] for part in results]) for row in table.rows},
        num_finished={row.name: min(part.num_finished[row.name] for part in results) for row in table.rows},
        reference_rows={
            label: join([part.reference_rows.get(label, none) for part, none in zip(results, blank, strict=True)])
            for label in labels
        },
        published=published_columns(table),
        protocol=" ".join(dict.fromkeys(filter(None, (part.protocol for part in results)))),
    )


def _load_run(table: Table, row: Row, directory: Path) -> Run:
    data = None
    with suppress(BadFile):  # its results are read without it
        if "root" in table.config(row, 0).data and (directory / "provenance.json").exists():
            data = load_provenance(directory)["data"]
    return Run(load_results(directory), row.eval, data)


def _protocols(runs: list[Run]) -> list[dict[str, Any]]:
    return [run.values["protocol"] for run in runs if "protocol" in run.values]


def _column_keys(values: list[dict[str, Any]], parts: str | None, order: list[str]) -> list[MetricKey]:
    """Return the keys of the metrics in the order of the experiment and of auxiliary columns, or of one metric's parts.

    Raises:
        Mistake: No run has parts of this metric.
    """
    names = sorted({name for run in values for name in run if _is_number(run[name])})
    tested = metric_keys(names, "test")
    if parts is None:
        rank = {metric: number for number, metric in enumerate(order)}
        whole = [key for key in tested if key.part is None]
        whole.sort(key=lambda key: (rank.get(key.registry_name, len(rank)), key.metric.endswith("-mean")))
        return whole + [MetricKey.parse(name) for name in AUXILIARY_COLUMNS if name in names]
    keys = [key for key in tested if key.part is not None and key.registry_name == parts]
    if values and not keys:
        available = ", ".join(sorted({key.registry_name for key in tested if key.part is not None})) or "no metric"
        raise Mistake(f"no run of this table has parts of '{parts}'; there are parts of: {available}.")
    return keys


def _cell_cache(table: Table, parts: str | None, directories: dict[str, list[Path]]) -> CachedJSON | None:
    """Return the cache of a table's cells; None if no run has scores to resample."""
    files = [
        path / name for paths in directories.values() for path in paths for name in ("metrics.json", "samples.parquet")
    ]
    if not any(file.name == "samples.parquet" and file.exists() for file in files):
        return None
    rows = [asdict(row) | {"runs": len(directories[row.name])} for row in table.rows]
    rows += [{"baseline": table.baseline}] if table.baseline else []
    metric_order = list(table.config(table.rows[0], 0).metrics)
    suffix = "".join(f"-{sanitize(name)}" for name in (*table.runs, parts) if name) + ".json"
    return CachedJSON(table.cache_path(suffix), hash_inputs([rows, metric_order, parts], files))


def _load_scores(table: Table, directories: dict[str, list[Path]]) -> "Scores":
    """Return the per-image scores of all runs; those that are damaged are noted in `Table.problems`."""
    from lumen.evaluation.scores import load_scores  # it imports torch

    scores = {name: [{} for _ in paths] for name, paths in directories.items()}
    for name, paths in directories.items():
        for seed, path in enumerate(paths):
            if (path / "samples.parquet").exists():  # runs without metrics have none
                with table.noting(path):
                    scores[name][seed] = load_scores(path / "samples.parquet").scores
    return scores


def _parse_cells(content: dict[str, list[dict[str, Any]]], runs: dict[str, list[Run]]) -> dict[str, list[Cell]]:
    """Return the cells that a cache holds, in the order of the rows."""
    return {name: [Cell.from_json(fields) for fields in content[name]] for name in runs}


def _compute_cells(
    table: Table,
    runs: dict[str, list[Run]],
    keys: list[MetricKey],
    scores: "Scores | None",
    cache: CachedJSON | None,
) -> dict[str, list[Cell]]:
    """Return the cells of all rows, with intervals and significance where a run has per-image scores."""
    cells = {
        name: [_mean_cell([run.values for run in row_runs], key) for key in keys] for name, row_runs in runs.items()
    }
    if len({run.eval for row_runs in runs.values() for run in row_runs}) == 1:
        for column, key in enumerate(keys):
            _mark_best([cells[row.name][column] for row in table.rows if not row.is_reference], key)
    if scores is not None:
        from lumen.sweeps.statistics import add_statistics  # it imports torch

        add_statistics(cells, keys, scores, table.baseline)
    if cache:
        cache.save({name: [asdict(cell) for cell in row] for name, row in cells.items()})
    return cells


def _mean_cell(values: list[dict[str, Any]], key: MetricKey) -> Cell:
    """Return the mean over seeds; of one seed with the interval that its evaluation has written."""
    numbers = [run[str(key)] for run in values if str(key) in run]
    if not numbers:
        return Cell()
    if len(numbers) > 1:
        return Cell(mean(numbers), stdev(numbers))
    interval = values[0].get(str(replace(key, interval=True))) if key.part is None else None
    return Cell(numbers[0], interval=interval and tuple(interval))


def _mark_best(cells: list[Cell], key: MetricKey) -> None:
    """Mark the best of several rows in the column of a metric."""
    measured = [cell for cell in cells if cell.value is not None]
    if key.kind == "test" and key.part is None and len(measured) > 1:
        sign = 1 if higher_is_better(key) else -1
        max(measured, key=lambda cell: sign * cell.value).best = True


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
