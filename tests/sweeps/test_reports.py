"""Reports of a table: HTML pages that are complete, well-formed and safe, and W&B reports without a server."""

import base64
import io
import json
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import unquote

import numpy as np
import pytest
import torch
import wandb
import wandb_workspaces.reports.v2 as wr
from PIL import Image

from lumen.__main__ import main
from lumen.core.errors import Mistake
from lumen.core.files import write_json
from lumen.core.visualize import load_grid, make_grid, preview_columns, save_grid
from lumen.evaluation.scores import PerImageScores, save_scores
from lumen.runs.directory import run_id
from lumen.sweeps.reports import plots
from lumen.sweeps.reports import wandb as wandb_report
from lumen.sweeps.reports.html import to_html
from lumen.sweeps.results import collect
from lumen.sweeps.table_reader import read_table

IMAGES = 8
SAMPLING = {"sampler": "dpm", "steps": 15, "guidance": 2.0}
PROTOCOL = {"images": IMAGES, "samples": 2, "sampling": SAMPLING, "hash": "abc"}
PROVENANCE = {
    "command": "lumen train scenes",
    "commit": "c0ffee",
    "versions": {"torch": "2.11", "lumen": "0.1.0"},
    "hardware": {"gpus": ["H100"], "cpus": 2, "machine": "x86_64"},
    "data": "f00d",
}
HOSTILE = """<script>alert("1")</script> & $\\frac{1$ ' -->"""
VOID_TAGS = {"meta", "img"}


def finish(table, row, captions=("a red ball", "a house")):
    """Write a finished run with all that a page shows: random samples, and the same images for every row."""
    directory = list(table.commands(row, 0))[-1]
    directory.mkdir(parents=True)
    scores = {key: torch.randn(IMAGES) for key in ("miou", "lpips-scenes")}
    per_image = PerImageScores(
        [f"{number:02d}" for number in range(IMAGES)], [""] * IMAGES, {"lpips-scenes": scores["lpips-scenes"]}
    )
    save_scores(directory / "samples.parquet", {"test": per_image})
    image = torch.linspace(-1, 1, 2 * 3 * 8 * 8).view(2, 3, 8, 8)
    columns = preview_columns(image, torch.randn(2, 3, 4, 4), [torch.rand_like(image) for _ in range(2)])
    picture = make_grid(columns, list(captions))
    save_grid(picture, list(captions), directory / "grid.png")
    steps = [{"step": 9, "train/loss": 0.5}, {"step": 9, "val/loss": 0.25, "val/response": 0.125}]
    log = "".join(json.dumps(step) + "\n" for step in steps) + '{"step": 10, "va'
    (directory / "metrics.jsonl").write_text(log)
    write_json(directory / "provenance.json", PROVENANCE | {"command": f"lumen train scenes {row.flag}"})
    values = {f"test/{key}": float(rows.mean()) for key, rows in scores.items()}
    values |= {"real/miou": 0.875, "test/miou_95": [-0.5, 0.5], "test/miou/sky": 0.6875, "test/miou/a & b": 0.3125}
    write_json(directory / "metrics.json", values | {"protocol": PROTOCOL, "sampling": {"images": 2}, "val/loss": 0.25})
    return directory


class Page(HTMLParser):
    """Content of a page; reading fails if an element is not closed, or closed by another's end."""

    def __init__(self, text):
        super().__init__()
        self.open_tags, self.tags, self.texts, self.attributes = [], Counter(), [], []
        self.feed(text)
        self.close()
        assert not self.open_tags
        ids = [value for name, value in self.attributes if name == "id"]
        assert len(ids) == len(set(ids))
        for name, value in self.attributes:
            if name in ("href", "xlink:href"):
                is_anchor = value.startswith("#") and value[1:] in ids
                assert is_anchor or (Path("runs/tables") / unquote(value)).resolve().is_dir()
            assert name != "src" or value.startswith("data:image/")
            assert not name.startswith("on")
        self.text = "\n".join(self.texts)

    def handle_starttag(self, tag, attributes):
        self.handle_startendtag(tag, attributes)
        if tag not in VOID_TAGS:
            self.open_tags.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags[tag] += 1
        assert len(dict(attributes)) == len(attributes)
        self.attributes += attributes

    def handle_endtag(self, tag):
        assert self.open_tags.pop() == tag

    def handle_data(self, data):
        self.texts.append(data.strip())

    @property
    def images(self):
        uris = [value.partition(",")[2] for name, value in self.attributes if name == "src"]
        return [np.asarray(Image.open(io.BytesIO(base64.b64decode(uri))).convert("RGB")) for uri in uris]


def test_html_report_holds_every_row_value_and_image(table):
    directories = [finish(table, row) for row in table.rows[:2]]
    results = collect(table)
    Path("runs/tables").mkdir(exist_ok=True)
    page = Page(to_html(results))
    links = [value for name, value in page.attributes if name == "href" and not value.startswith("#")]
    assert [(Path("runs/tables") / unquote(link)).resolve() for link in links] == [d.resolve() for d in directories]
    assert {"mIoU ↑", "LPIPS-scenes ↑", "validation loss", "paper, coco_stuff"} <= set(page.texts)
    assert not {"miou", "val/loss", "lpips-scenes"} & set(page.texts)
    for row in table.rows[:2]:
        for cell in results.rows[row.name]:
            assert f"{cell.value:.4g}" in page.text
            assert not cell.interval or "[{:.4g}, {:.4g}]".format(*cell.interval) in page.text
        assert str(row.published["coco_stuff"]["miou"]) in page.texts
        assert f"lumen train scenes {row.flag}" in page.texts
        assert page.texts.count(row.name) >= 6  # the table, two intervals, two learning curves, the images
    for text in (table.title, "DINOv2", "real images", "0.875", "c0ffee", "H100", "lumen 0.1.0, torch 2.11", "a house"):
        assert text in page.texts
    assert f"{IMAGES} held-out images" in page.text and "2 commands are left" in page.text
    assert {"sky", "0.6875", "a & b", "0.3125"} <= set(page.texts)
    assert page.tags["svg"] == 4  # two intervals, two learning curves
    grids = [load_grid(directory / "grid.png", 4).rows for directory in directories]
    tiles = [np.asarray(tile) for rows in grids for row in rows for tile in row]
    # Each once; the two images that both rows have are there once for both.
    assert len(page.images) == len(tiles) - 2
    assert all(any(np.array_equal(tile, image) for image in page.images) for tile in tiles)


def test_html_report_escapes_names_and_captions(table):
    table.rows[0].name = HOSTILE
    finish(table, table.rows[0], captions=[HOSTILE, HOSTILE])
    text = to_html(collect(table))
    page = Page(text)
    assert "script" not in page.tags and page.texts.count(HOSTILE) > 5
    assert "Content-Security-Policy" in text and "http://" not in text.replace("http://www.w3.org/", "")


def test_html_report_shows_captions_that_differ_between_rows(table):
    for row, captions in zip(table.rows, (["a ball", "one house"], ["a ball", "another house"]), strict=False):
        finish(table, row, captions)
    texts = Page(to_html(collect(table))).texts
    assert texts.count("a ball") == 1 and texts.count("one house") == texts.count("another house") == 1
    assert texts.index("prompt") < texts.index("one house") < texts.index("another house")


def test_axis_of_almost_equal_values_has_no_offset(table, finish_run):
    for row, value in zip(table.rows, (0.0671201, 0.0671203), strict=False):
        finish_run(table, row, 0, torch.rand(30), **{"test/miou": value})
    axes = plots.plot_intervals(collect(table), "miou").axes[0]
    axes.figure.canvas.draw()
    assert axes.xaxis.get_offset_text().get_text() == ""
    low, high = axes.get_xlim()
    labels = [label.get_text() for label in axes.get_xticklabels() if low <= label.get_position()[0] <= high]
    assert low < 0.0671201 < 0.0671203 < high and len(set(labels)) == len(labels) > 1


def test_curve_plot_shows_every_row_and_its_intervals(workdir):
    table = read_table("components", base="scenes")
    for row in table.rows[:3]:
        finish(table, row)
    results = collect(table)
    assert results.curve_columns == ["lpips-scenes", "miou"]
    picture = plots.to_image(plots.plot_curve(results))
    assert {row.name for row in table.rows[:3]} <= set(Page(plots.to_svg(plots.plot_curve(results), "curve")).texts)
    for cells in results.rows.values():
        cells[0].interval = None
    assert (np.asarray(plots.to_image(plots.plot_curve(results))) != np.asarray(picture)).any()
    assert plots.plot_curve(collect(read_table("table1", base="scenes"))) is None


def test_report_command_writes_a_page_of_what_has_finished(table, workdir, capsys):
    path = workdir / "runs" / "tables" / "table1-scenes.html"
    assert main(["report", "table1", "base=scenes"]) == 0
    assert "page: runs/tables/table1-scenes.html" in capsys.readouterr().out
    assert "8 commands" not in path.read_text() and "4 commands are left" in Page(path.read_text()).text
    finish(table, table.rows[0])
    assert main(["report", "table1", "base=scenes", "wandb=online"]) == 1
    output = capsys.readouterr().out
    assert "wandb login" in output and "table1-scenes.html exists" in output
    assert Page(path.read_text()).images


def test_wandb_report_has_a_panel_per_metric_and_only_the_runs_of_the_table(workdir):
    table = read_table("components", base="scenes")
    directories = [finish(table, row) for row in table.rows[:2]]
    report = wandb_report.build_report(collect(table), "somebody")
    text, evaluated, trained, generated = report.blocks
    assert "| N=3 | 1/1 |" in text.text and (report.project, report.entity) == ("lumen", "somebody")
    assert [panel.metrics for panel in evaluated.panels[:2]] == [["test/miou"], ["test/lpips-scenes"]]
    assert (evaluated.panels[2].x.name, evaluated.panels[2].y.name) == ("test/lpips-scenes", "test/miou")
    assert [panel.y for panel in trained.panels] == [["val/loss"], ["val/response"]]
    assert generated.panels[0].media_keys == ["image", "layout", "samples"]
    blocks = report._to_model().model_dump(by_alias=True)["spec"]["blocks"]  # as they are sent
    grids = [block["metadata"]["runSets"][0] for block in blocks if block["type"] == "panel-grid"]
    ids = [(directory / "id").read_text() for directory in directories]
    assert [runs["filters"]["filters"][0]["value"] for runs in grids] == [ids] * 3
    grouping = [{"section": "config", "name": "conditioning.value.components"}]
    assert [runs["grouping"] for runs in grids] == [grouping, grouping, []]


def test_wandb_report_of_rows_evaluated_again_shows_training_and_evaluation_runs(workdir):
    table = read_table("table1", base="scenes", overrides=["eval.sampling.steps=30"])
    row = table.rows[0]
    run_dir, eval_dir = table.commands(row, 0)
    finish(table, row)
    blocks = wandb_report.build_report(collect(table), "somebody").blocks
    filters = {block.runsets[0].name: block.runsets[0].filters for block in blocks[1:]}
    assert run_id(eval_dir) in filters["evaluated"] and run_id(eval_dir) in filters["generated"]
    assert run_id(run_dir) in filters["trained"] and blocks[1].runsets[0].groupby == ["config.backbone.name"]


def test_wandb_report_needs_a_finished_row(table):
    with pytest.raises(Mistake, match="no row of table1 has finished"):
        wandb_report.build_report(collect(table), "somebody")


def test_wandb_report_is_created_once_and_then_replaced(table, monkeypatch, capsys):
    saved_ids, directory = [], finish(table, table.rows[0])

    def save(self):
        saved_ids.append(self.id)
        self.id = "Vmlldzox"

    def refuse(**_):
        raise wandb.errors.CommError("no answer\nat all")

    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setattr(wandb, "Api", refuse)
    results = collect(table)
    assert not wandb_report.publish(results)
    output = capsys.readouterr().out
    assert "(no answer)" in output and "runs/tables/table1-scenes.html" in output
    server = SimpleNamespace(settings={"entity": "me"}, _service_api=SimpleNamespace(app_url="https://wandb.here"))
    monkeypatch.setattr(wandb, "Api", lambda **_: server)
    monkeypatch.setattr(wr.Report, "save", save)
    (directory / "wandb" / "offline-run-1-a").mkdir(parents=True)
    (directory / "wandb" / "offline-run-1-a" / "run-a.wandb").touch()
    assert wandb_report.publish(results) and wandb_report.publish(results)
    output = capsys.readouterr().out
    assert saved_ids == ["", "Vmlldzox"] and "report: https://wandb.here/me/lumen/reports/table1-on-scenes" in output
    assert f"`wandb sync {directory}/wandb/offline-run-1-a`" in output
