"""A table in Weights & Biases: a report of its figures, curve, training and pictures, with its rows side by side."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import wandb

from lumen.config.schema import SLOTS
from lumen.core.errors import Mistake
from lumen.core.files import write
from lumen.runs import directory as folder
from lumen.sweeps.reports.text import markdown
from lumen.sweeps.results import BESIDE, Results
from lumen.training import loggers as tracking

if TYPE_CHECKING:
    from wandb_workspaces.reports.v2 import PanelGrid, Report
    from wandb_workspaces.reports.v2.interface import Panel

NEEDED = "W&B's reports need a library that is not installed; `pip install wandb-workspaces` brings it."


def publish(results: Results) -> bool:
    """Puts the table's report into W&B, the same one again when the command is repeated; says where it is.

    Raises:
        Mistake: no row is finished, or the library is not there.
    """
    page = results.table.file
    later = f"{page}.html is there, and the same command puts it into W&B later."
    if not tracking.has_key():
        print(f"W&B has no key here (`wandb login` asks for one); {later}")
        return False
    known = page.with_name(f"{page.name}.wandb-report")  # holds its id
    try:
        server = wandb.Api(timeout=30)
        made = report(results, server.settings["entity"] or server.default_entity)
        made.id = known.read_text() if known.exists() else ""
        made.save()
    except Mistake:
        raise
    except Exception as error:  # whatever a server answers, the page is there
        print(f"W&B did not take the report ({str(error).partition(chr(10))[0]}); {later}")
        return False
    write(known, made.id)
    print(f"report: {made.url}")
    if unsent := _unsent(results):
        print(f"{len(unsent)} of its runs were logged offline; `wandb sync {shlex.join(map(str, unsent))}` sends them.")
    return True


def report(results: Results, entity: str) -> "Report":
    """The report as W&B's own objects; nothing is sent.

    Raises:
        Mistake: no row is finished, or the library is not there.
    """
    try:
        import wandb_workspaces.reports.v2 as wr
    except ImportError:
        raise Mistake(NEEDED) from None
    table = results.table
    if not any(results.done.values()):
        raise Mistake(f"no row of {table.name} is finished, so there is nothing to send; `{table.command}` runs them.")
    figures = [f"test/{column}" for column in results.columns if column not in BESIDE]
    bars = [wr.BarPlot(title=name, metrics=[name]) for name in figures]
    if results.curve:
        x, y = (wr.SummaryMetric(f"test/{column}") for column in results.curve)
        bars.append(wr.ScatterPlot(title=" and ".join(results.curve), x=x, y=y))
    lines = [wr.LinePlot(title=key, x="trainer/global_step", y=[key]) for key in BESIDE[:2]]
    pictures = wr.MediaBrowser(
        title="grid", media_keys=["grid"], grid_x_axis="run", grid_y_axis="step", layout=wr.Layout(w=24, h=14)
    )
    project = table.config(table.rows[0], 0).project
    return wr.Report(
        project=project,
        entity=entity,
        title=f"{table.name} on {table.base}"[:128],  # as long as W&B takes
        description=table.title,
        width="fluid",
        blocks=[
            wr.MarkdownBlock(markdown(results)),
            _grid(results, "measured", _measured(results), bars),
            _grid(results, "trained", _trained(results), lines),
            _grid(results, "painted", _measured(results), [pictures], grouped=False),
        ],
    )


def _grid(results: Results, name: str, places: list[Path], panels: list["Panel"], grouped: bool = True) -> "PanelGrid":
    """Panels of the runs in these folders; grouped, the seeds of a row are one."""
    import wandb_workspaces.reports.v2 as wr
    from wandb_workspaces import expr

    runs = wr.Runset(
        name=name,
        filters=[expr.Metric("ID").isin([folder.identity(place) for place in places])],
        groupby=_keys(results) if grouped else [],
        order=[wr.OrderBy("CreatedTimestamp", ascending=True)],
    )
    return wr.PanelGrid(runsets=[runs], panels=panels)


def _keys(results: Results) -> list[str]:
    """What the rows differ in, as W&B names what is in a run's config."""
    flags = [flag for row in results.table.rows for flag in shlex.split(f"{row.flag} {row.eval}")]
    keys = dict.fromkeys(flag.partition("=")[0] for flag in flags)
    return [f"config.{key}.name" if key in SLOTS else f"config.{key}" for key in keys]


def _measured(results: Results) -> list[Path]:
    """The folders of all finished runs, each once."""
    return list(dict.fromkeys(place for row in results.table.rows for place in results.table.places(row)))


def _trained(results: Results) -> list[Path]:
    """The folders that those runs were trained in: another than where they were measured, if that was done anew."""
    made = [results.table.commands(row, seed) for row in results.table.rows for seed in range(results.table.seeds)]
    return list(dict.fromkeys(next(iter(each)) for each in made if folder.figures(list(each)[-1]) is not None))


def _unsent(results: Results) -> list[Path]:
    """What was logged offline and has not been sent."""
    places = dict.fromkeys([*_trained(results), *_measured(results)])
    files = [file for place in places for file in sorted(place.glob("wandb/offline-run-*/*.wandb"))]
    return [file.parent for file in files if not file.with_suffix(".wandb.synced").exists()]
