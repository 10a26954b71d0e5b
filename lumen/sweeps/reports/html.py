"""HTML report of a table, one self-contained page: values, images side by side, learning curves, provenance."""

import base64
import io
import os
from collections.abc import Iterator
from importlib.resources import files
from itertools import product
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from PIL import Image

from lumen.core.files import find_damaged_lines, read_jsonl, write
from lumen.evaluation.headings import TRAINING_VALUES, display_name, heading
from lumen.evaluation.keys import MetricKey, higher_is_better, metric_keys
from lumen.runs.directory import load_provenance, load_results
from lumen.sweeps.reports import plots
from lumen.sweeps.reports.grids import load_grids
from lumen.sweeps.reports.text import format_notes, format_pending, format_uncertainty
from lumen.sweeps.results import LEARNING_CURVES, Results, collect
from lumen.sweeps.table import Row, Table

MAX_SIDE_PX = 320  # of an image in the page


def save(results: Results) -> Path:
    """Write runs/tables/<table>-<base>.html and return its path."""
    path = results.table.output_path(".html")
    write(path, to_html(results))
    return path


def to_html(results: Results) -> str:
    """Return the page. Text from files and flags is escaped, and the page loads nothing from elsewhere."""
    table = results.table
    jinja = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    jinja.filters |= {"number": "{:.4g}".format, "uncertainty": format_uncertainty}
    template = jinja.from_string((files("lumen") / "sweeps/reports/table.html.j2").read_text(encoding="utf-8"))
    pictured_rows, images = _images(table)
    curve, names = plots.plot_curve(results), dict(zip(results.columns, results.headings, strict=True))
    return template.render(
        results=results,
        table=table,
        notes=[*format_notes(results), *format_pending(results)],
        headings=[heading(key) + _arrow(key) for key in results.keys],
        published=[text.partition(" (") for text in results.published_headings],
        links={row.name: list(_links(table, row)) for row in table.rows},
        colours={name: plots.row_colour(name, results) for name in results.rows},
        curve_title=" and ".join(names[column] for column in results.curve_columns),
        curve=Markup(plots.to_svg(curve, "curve")) if curve else "",
        intervals=list(_interval_plots(results)),
        pictured_rows=pictured_rows,
        images=images,
        learning_curves=list(_learning_curves(results)),
        breakdowns={display_name(name): collect(table, name) for name in _metrics_with_parts(table)},
        runs=list(_provenance(table)),
    )


def _arrow(key: MetricKey) -> str:
    """Return an arrow in the direction that is better; nothing for values that are no metric."""
    if key.kind != "test":
        return ""
    return " ↑" if higher_is_better(key) else " ↓"


def _links(table: Table, row: Row) -> Iterator[dict[str, str]]:
    """Yield each command of a row, with a relative link to the directory that it fills, if that exists."""
    page = table.output_path(".html").parent
    for seed in range(table.seeds):
        for directory, command in table.commands(row, seed).items():
            name = _link_name(table, row, seed, directory)
            href = quote(os.path.relpath(directory, page)) + "/" if directory.is_dir() else ""
            yield {"name": name, "href": href, "command": command}


def _link_name(table: Table, row: Row, seed: int, directory: Path) -> str:
    """Return words for one of the directories that make a row."""
    if directory == table.generating_run(row):
        return "generated images"
    run_dir = directory.parent.parent if directory.parent.name == "eval" else directory
    tasks = [config.task["name"] for path, config in table.trainings(row, seed).items() if path == run_dir]
    words = [
        f"seed {seed}",
        *(tasks if len(table.runs) > 1 else []),
        *(["evaluated again"] if directory != run_dir else []),
    ]
    return ", ".join(words)


def _interval_plots(results: Results) -> Iterator[Markup]:
    """Yield a plot of the intervals of each metric that was measured."""
    columns = [name for name, key in zip(results.columns, results.keys, strict=True) if key.kind == "test"]
    for number, column in enumerate(name for name in columns if any(results.column(name))):
        yield Markup(plots.to_svg(plots.plot_intervals(results, column), f"interval{number}"))


def _images(table: Table) -> tuple[list[str], list[dict[str, Any]]]:
    """Return the rows that have an image grid, and of each held-out image its captions and its images by label."""
    grids, images = load_grids(table), []
    pictures, captions, titles = zip(*grids.values(), strict=True) if grids else ((), (), ())
    for strips, image_captions in zip(zip(*pictures, strict=False), zip(*captions, strict=False), strict=True):
        numbered = ["image", "layout", *(f"sample {number + 1}" for number in range(max(map(len, strips))))]
        columns = [
            dict(zip(texts or numbered, tiles, strict=False)) for texts, tiles in zip(titles, strips, strict=True)
        ]
        labels = dict.fromkeys(label for column in columns for label in column)
        tiles = {
            label: _merge_equal([_data_uri(column[label]) if label in column else None for column in columns])
            for label in labels
        }
        images.append({"captions": _merge_equal(list(image_captions)), "tiles": tiles})
    return list(grids), images


def _merge_equal(values: list[str | None]) -> list[str | None]:
    """Return one value for all if all are equal."""
    return values[:1] if len(set(values)) == 1 else values


def _data_uri(picture: Image.Image) -> str:
    """Return a picture as a data URI. Large ones are shrunk; small ones stay lossless."""
    thumbnail, file = picture.copy(), io.BytesIO()
    thumbnail.thumbnail((MAX_SIDE_PX, MAX_SIDE_PX))
    thumbnail.save(file, format="WEBP", lossless=thumbnail.size == picture.size, quality=85)
    return f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"


def _learning_curves(results: Results) -> Iterator[Markup]:
    """Yield a plot of each value of training by step; unfinished runs are included."""
    for number, (part, key) in enumerate(product(results.table.parts, LEARNING_CURVES)):
        logs = {}
        for row, seed in product(part.rows, range(part.seeds)):
            run_dir = [*part.trainings(row, seed)][-1]  # rows that evaluate one run share its training
            logs.setdefault(run_dir, (row.name, _read_history(part, run_dir / "metrics.jsonl")))
        curves: dict[str, list[dict[int, float]]] = {}
        for name, records in logs.values():
            if curve := {record["step"]: record[key] for record in records if {"step", key} <= record.keys()}:
                curves.setdefault(name, []).append(curve)
        if curves:
            task = f", {part.config(part.rows[0], 0).task['name']}" if len(results.table.runs) > 1 else ""
            plot = plots.plot_learning_curves(curves, results, TRAINING_VALUES[key] + task)
            yield Markup(plots.to_svg(plot, f"course{number}"))


def _read_history(table: Table, path: Path) -> list[dict[str, float]]:
    """Return the numbers that a run logged; damaged lines are left out, and noted in `Table.problems`."""
    if numbers := find_damaged_lines(path):
        table.problems[path] = (
            f"line {', '.join(map(str, numbers[:5]))} of {path} is damaged, and curves are drawn without it; remove "
            "the run directory and train again to log it anew."
        )
    return [
        {key: value for key, value in record.items() if isinstance(value, int | float)} for record in read_jsonl(path)
    ]


def _metrics_with_parts(table: Table) -> list[str]:
    """Return the metrics that have values of parts, such as one per class."""
    names = {name for row in table.rows for path in table.finished_runs(row) for name in load_results(path)}
    return sorted({key.registry_name for key in metric_keys(names, "test") if key.part is not None})


def _provenance(table: Table) -> Iterator[dict[str, Any]]:
    """Yield the provenance of each training and each evaluation of the table."""
    listed: set[Path] = set()  # of runs whose images several rows learn from
    for row in table.rows:
        for seed in range(table.seeds):
            for directory in table.commands(row, seed):
                if directory in listed or not (directory / "provenance.json").exists():
                    continue
                listed |= {directory} & {table.generating_run(row)}
                with table.noting(directory / "provenance.json"):
                    facts = _facts(load_provenance(directory)) | {"directory": str(directory)}
                    verb = "eval" if directory.parent.name == "eval" else "train"
                    yield {"name": f"{row.name}, seed {seed}: lumen {verb}", "facts": facts}


def _facts(provenance: dict[str, Any]) -> dict[str, str]:
    hardware = provenance["hardware"]
    return {
        "command": provenance["command"],
        "commit": provenance["commit"] or "none: an installed package",
        "device": ", ".join(map(str, hardware["gpus"])) or f"{hardware['cpus']} CPU cores, {hardware['machine']}",
        "versions": ", ".join(f"{name} {version}" for name, version in provenance["versions"].items()),
        "data": provenance["data"],
    }
