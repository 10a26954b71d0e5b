"""Weights & Biases report of a table: its values, curve, learning curves and images, with rows side by side."""

import shlex
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

import wandb

from lumen.config.schema import RUN_KEYS, SLOTS
from lumen.core.errors import Mistake
from lumen.core.files import write
from lumen.core.readers import read_text
from lumen.runs.directory import is_finished, run_id
from lumen.sweeps.reports.text import to_markdown
from lumen.sweeps.results import LEARNING_CURVES, Results
from lumen.sweeps.table import Table
from lumen.sweeps.wandb_summary import sync_command, unsynced_logs
from lumen.training.wandb_logger import STEP, has_key

if TYPE_CHECKING:
    from wandb_workspaces.reports.v2 import PanelGrid, Report
    from wandb_workspaces.reports.v2.interface import Panel

MISSING_LIBRARY = "reports in W&B need a library that is not installed; install it with: pip install wandb-workspaces."
MAX_TITLE_LENGTH = 128  # characters that W&B accepts


def publish(results: Results) -> bool:
    """Send the table's report to W&B and print its address. A repeated command replaces the same report.

    Returns:
        Whether W&B has the report.

    Raises:
        Mistake: No row has finished, or the library is not installed.
    """
    table = results.table
    later = f"{table.output_path('.html')} exists; repeat the command to send it to W&B later."
    if not has_key():
        print(f"W&B has no key on this machine; log in with `wandb login`. {later}")
        return False
    id_file = table.output_path(".wandb-report")
    try:
        server = wandb.Api(timeout=30)
        report = build_report(results, server.settings["entity"] or server.default_entity)
        report.id = read_text(id_file, "remove it, and the report is a new one") if id_file.exists() else ""
        report.save()
    except Mistake:
        raise
    except Exception as error:  # an answer of the server must not fail the command: the HTML page is written
        print(f"W&B did not accept the report ({str(error).partition(chr(10))[0]}); {later}")
        return False
    write(id_file, report.id)
    print(f"report: {report.url}")
    if logs := unsynced_logs(table):
        print(f"{len(logs)} logs of its runs are offline; send them with `{sync_command(logs)}`.")
    return True


def build_report(results: Results, entity: str) -> "Report":
    """Return the report as W&B's own objects, without sending it.

    Raises:
        Mistake: No row has finished, or the library is not installed.
    """
    try:
        import wandb_workspaces.reports.v2 as wr
    except ImportError:
        raise Mistake(MISSING_LIBRARY) from None
    table = results.table
    if not any(results.num_finished.values()):
        raise Mistake(f"no row of {table.name} has finished, so there is nothing to send; run `{table.command}`.")
    plots = [wr.LinePlot(title=key, x=STEP, y=[key]) for key in LEARNING_CURVES]
    images = wr.MediaBrowser(
        title="samples",
        media_keys=["image", "layout", "samples"],
        grid_x_axis="run",
        grid_y_axis="step",
        layout=wr.Layout(w=24, h=14),
    )
    evaluated = _finished_runs(table)
    return wr.Report(
        project=table.config(table.rows[0], 0).project,
        entity=entity,
        title=f"{table.name} on {table.base}"[:MAX_TITLE_LENGTH],
        description=table.title,
        width="fluid",
        blocks=[
            wr.MarkdownBlock(to_markdown(results)),
            _panel_grid(table, "evaluated", evaluated, _metric_panels(results)),
            _panel_grid(table, "trained", _training_runs(table), plots),
            _panel_grid(table, "generated", evaluated, [images], grouped=False),
        ],
    )


def _metric_panels(results: Results) -> list["Panel"]:
    """Return a bar plot for each metric, and the curve."""
    import wandb_workspaces.reports.v2 as wr

    names = [str(key) for key in results.keys if key.kind == "test"]
    panels = [wr.BarPlot(title=name, metrics=[name]) for name in names]
    if results.curve_columns:
        x, y = (wr.SummaryMetric(f"test/{column}") for column in results.curve_columns)
        panels.append(wr.ScatterPlot(title=" and ".join(results.curve_columns), x=x, y=y))
    return panels


def _panel_grid(
    table: Table, name: str, directories: list[Path], panels: list["Panel"], grouped: bool = True
) -> "PanelGrid":
    """Return panels of the runs in some directories. Grouped, the seeds of a row are shown as one."""
    import wandb_workspaces.reports.v2 as wr
    from wandb_workspaces import expr

    runs = wr.Runset(
        name=name,
        filters=[expr.Metric("ID").isin([run_id(directory) for directory in directories])],
        groupby=_group_keys(table) if grouped else [],
        order=[wr.OrderBy("CreatedTimestamp", ascending=True)],
    )
    return wr.PanelGrid(runsets=[runs], panels=panels)


def _group_keys(table: Table) -> list[str]:
    """Return the keys in which the rows differ, as W&B names those of a run's config."""
    overrides = [override for row in table.rows for override in shlex.split(f"{row.flag} {row.eval}")]
    overrides += RUN_KEYS if any(row.synthetic is not None for row in table.rows) else []
    keys = dict.fromkeys(override.partition("=")[0] for override in overrides)
    return [f"config.{key}.name" if key in SLOTS else f"config.{key}" for key in keys]


def _finished_runs(table: Table) -> list[Path]:
    """Return the directories of all finished runs, as evaluated for the table."""
    return list(dict.fromkeys(directory for row in table.rows for directory in table.finished_runs(row)))


def _training_runs(table: Table) -> list[Path]:
    """Return the directories in which the finished runs were trained."""
    directories: dict[Path, None] = {}
    for part in table.parts:
        for row, seed in product(part.rows, range(part.seeds)):
            if is_finished([*part.commands(row, seed)][-1]):
                directories[[*part.trainings(row, seed)][-1]] = None
    return list(directories)
