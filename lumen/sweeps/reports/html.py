"""A table as one page of HTML that opens from disk: figures, pictures side by side, curves, where each row is from."""

import base64
import io
import json
from collections.abc import Iterator
from importlib.resources import files
from itertools import zip_longest
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from PIL import Image

from lumen.core.files import lines, write
from lumen.core.registry import metrics
from lumen.core.visualize import load_grid
from lumen.runs import directory as folder
from lumen.sweeps.reports import plots
from lumen.sweeps.reports.text import around, notes, remaining
from lumen.sweeps.results import BESIDE, Results, collect
from lumen.sweeps.table import Table

SIDE = 320  # px, the most of a picture's side that goes into the page
TRAINED = ("val/loss", "val/response")  # what is drawn by step


def save(results: Results) -> Path:
    """Writes runs/tables/<table>-<base>.html."""
    path = results.table.file.with_name(f"{results.table.file.name}.html")
    write(path, page(results))
    return path


def page(results: Results) -> str:
    """The page; whatever comes from a file or a flag is escaped, and nothing is fetched when it is looked at."""
    table = results.table
    jinja = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    jinja.filters |= {"number": "{:.4g}".format, "around": around}
    template = jinja.from_string((files("lumen") / "sweeps/reports/table.html.j2").read_text())
    painters, views = _views(table)
    judged = [c for c in results.columns if c not in BESIDE and any(results.column(c))]
    drawn = plots.curve(results)
    return template.render(
        results=results,
        table=table,
        notes=[*notes(results), *remaining(results)],
        arrows={column: _arrow(column) for column in results.columns},
        colours={name: plots.colour_of(name, results) for name in results.lines},
        curve=Markup(plots.svg(drawn, "curve")) if drawn else "",
        intervals=[
            Markup(plots.svg(plots.intervals(results, column), f"interval{number}"))
            for number, column in enumerate(judged)
        ],
        painters=painters,
        views=views,
        courses=list(_courses(results)),
        parts={name: collect(table, name) for name in _with_parts(table)},
        runs=list(_runs(table)),
    )


def _arrow(column: str) -> str:
    """Which way is better."""
    if column in BESIDE:
        return ""
    return " ↑" if metrics.factory(column.partition("-")[0]).higher_is_better else " ↓"


def _views(table: Table) -> tuple[list[str], list[dict[str, Any]]]:
    """The rows that have pictures, and of each held-out image what they make of it, the image itself first."""
    grids = {}
    for row in table.rows:
        for place in table.places(row)[:1]:
            if (place / "grid.png").exists():
                grids[row.name] = load_grid(place / "grid.png", 2 + folder.figures(place)["sampling"]["images"])
    views = []
    pictures, captions = zip(*grids.values(), strict=True) if grids else ((), ())
    for strips, said in zip(zip(*pictures, strict=False), zip(*captions, strict=False), strict=True):
        kinds = [_once([each and _uri(each) for each in kind]) for kind in zip_longest(*strips)]
        labels = ["image", "layout", *(f"sample {number + 1}" for number in range(len(kinds) - 2))]
        views.append({"captions": _once(list(said)), "lines": dict(zip(labels, kinds, strict=True))})
    return list(grids), views


def _once(values: list[str | None]) -> list[str | None]:
    """One for all where all are the same."""
    return values[:1] if len(set(values)) == 1 else values


def _uri(picture: Image.Image) -> str:
    """A picture as the address of itself: large ones are made small, small ones stay as they are."""
    shown, file = picture.copy(), io.BytesIO()
    shown.thumbnail((SIDE, SIDE))
    shown.save(file, format="WEBP", lossless=shown.size == picture.size, quality=85)
    return f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"


def _courses(results: Results) -> Iterator[Markup]:
    """The way that training went, of unfinished runs as far as they are."""
    table, journals = results.table, {}
    for row in table.rows:
        for seed in range(table.seeds):
            place = next(iter(table.commands(row, seed)))  # rows that measure one run anew share its training
            journals.setdefault(place, (row.name, lines(place / "metrics.jsonl")))
    for number, key in enumerate(TRAINED):
        runs: dict[str, list[dict[int, float]]] = {}
        for name, journal in journals.values():
            if course := {line["step"]: line[key] for line in journal if key in line}:
                runs.setdefault(name, []).append(course)
        if runs:
            yield Markup(plots.svg(plots.courses(runs, results, key), f"course{number}"))


def _with_parts(table: Table) -> list[str]:
    """The metrics that have figures of parts, such as one per class."""
    keys = {key for row in table.rows for place in table.places(row) for key in folder.figures(place)}
    return sorted({k.split("/")[1].partition("-")[0] for k in keys if k.startswith("test/") and k.count("/") == 2})


def _runs(table: Table) -> Iterator[dict[str, Any]]:
    """What each row came from, as its runs wrote it down."""
    for row in table.rows:
        for seed in range(table.seeds):
            for place in table.commands(row, seed):
                if (place / "provenance.json").exists():
                    facts = _facts(json.loads((place / "provenance.json").read_text()))
                    name = f"{row.name}, seed {seed}: lumen {facts['command'].split()[1]}"  # trained, or measured anew
                    yield {"name": name, "facts": facts | {"folder": str(place)}}


def _facts(record: dict[str, Any]) -> dict[str, str]:
    machine = record["hardware"]
    return {
        "command": record["command"],
        "commit": record["commit"] or "none: an installed package",
        "device": ", ".join(machine["gpus"]) or f"{machine['cpus']} CPU cores, {machine['machine']}",
        "versions": ", ".join(f"{name} {version}" for name, version in record["versions"].items()),
        "data": record["data"],
    }
