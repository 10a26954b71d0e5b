"""Pages of tables: whole, well-formed, deaf to hostile names; the same table as a report of W&B, without a server."""

import base64
import io
import json
from collections import Counter
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import wandb
import wandb_workspaces.reports.v2 as wr
from PIL import Image

from lumen.__main__ import main
from lumen.core.errors import Mistake
from lumen.core.files import write_json
from lumen.core.visualize import grid, load_grid, save_grid
from lumen.evaluation.scores import Samples, save_samples
from lumen.runs import directory as folder
from lumen.sweeps import table as tables
from lumen.sweeps.reports import plots
from lumen.sweeps.reports import wandb as panels
from lumen.sweeps.reports.html import page
from lumen.sweeps.results import collect

IMAGES = 8
RULES = {"images": IMAGES, "samples": 2, "sampling": {"sampler": "dpm", "steps": 15, "guidance": 2.0}, "hash": "abc"}
RECORD = {
    "command": "lumen train scenes",
    "commit": "c0ffee",
    "versions": {"torch": "2.11", "lumen": "0.1.0"},
    "hardware": {"gpus": ["H100"], "cpus": 2, "machine": "x86_64"},
    "data": "f00d",
}
HOSTILE = """<script>alert("1")</script> & $\\frac{1$ ' -->"""
VOID = {"meta", "img"}


def finish(table, row, captions=("a red ball", "a house"), **figures):
    """A finished run with all that a page shows; what it painted is random, the images it was shown are not."""
    place = list(table.commands(row, 0))[-1]
    values = {title: torch.randn(IMAGES) for title in ("miou", "lpips-scenes")}
    ids = [f"{number:02d}" for number in range(IMAGES)]
    place.mkdir(parents=True)
    save_samples(
        place / "samples.parquet", {"test": Samples(ids, [""] * IMAGES, {"lpips-scenes": values["lpips-scenes"]})}
    )
    image = torch.linspace(-1, 1, 2 * 3 * 8 * 8).view(2, 3, 8, 8)
    painted = grid(image, torch.randn(2, 3, 4, 4), [torch.rand_like(image) for _ in range(2)], list(captions))
    save_grid(painted, list(captions), place / "grid.png")
    steps = [{"step": 9, "train/loss": 0.5}, {"step": 9, "val/loss": 0.25, "val/response": 0.125}]
    (place / "metrics.jsonl").write_text("".join(json.dumps(step) + "\n" for step in steps) + '{"step": 10, "va')
    write_json(place / "provenance.json", RECORD | {"command": f"lumen train scenes {row.flag}"})
    figures |= {f"test/{title}": float(some.mean()) for title, some in values.items()}
    figures |= {"real/miou": 0.875, "test/miou_95": [-0.5, 0.5], "test/miou/sky": 0.6875, "test/miou/a & b": 0.3125}
    write_json(place / "metrics.json", {"protocol": RULES, "sampling": {"images": 2}, "val/loss": 0.25} | figures)
    return place


class Page(HTMLParser):
    """What a page holds; reading it fails where an element is not closed, or closed by another's end."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.said, self.attributes = [], Counter(), [], []
        self.feed(text)
        self.close()
        assert not self.open
        ids = [value for name, value in self.attributes if name == "id"]
        assert len(ids) == len(set(ids))
        for name, value in self.attributes:
            if name in ("href", "xlink:href"):
                assert value.startswith("#") and value[1:] in ids
            assert name != "src" or value.startswith("data:image/")
            assert not name.startswith("on")
        self.text = "\n".join(self.said)

    def handle_starttag(self, tag, attributes):
        self.handle_startendtag(tag, attributes)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags[tag] += 1
        assert len(dict(attributes)) == len(attributes)
        self.attributes += attributes

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.said.append(data.strip())

    @property
    def pictures(self):
        found = [value.partition(",")[2] for name, value in self.attributes if name == "src"]
        return [np.asarray(Image.open(io.BytesIO(base64.b64decode(each))).convert("RGB")) for each in found]


@pytest.fixture
def table(place):
    return tables.read("table1", base="scenes")


def test_a_page_holds_every_row_figure_and_picture(table):
    places = [finish(table, row) for row in table.rows[:2]]
    results = collect(table)
    read = Page(page(results))
    for row in table.rows[:2]:
        for cell in results.lines[row.name]:
            assert f"{cell.value:.4g}" in read.text
            assert not cell.interval or "[{:.4g}, {:.4g}]".format(*cell.interval) in read.text
        assert str(row.published["coco_stuff"]["miou"]) in read.said
        assert f"lumen train scenes {row.flag}" in read.said
        assert read.said.count(row.name) >= 6  # the table, an interval each, two courses, the pictures
    for said in (table.title, "DINOv2", "real images", "0.875", "c0ffee", "H100", "lumen 0.1.0, torch 2.11", "a house"):
        assert said in read.said
    assert f"{IMAGES} held-out images" in read.text and "2 commands are left" in read.text
    assert {"sky", "0.6875", "a & b", "0.3125"} <= set(read.said)
    assert read.tags["svg"] == 4  # two intervals, two courses
    put = [load_grid(each / "grid.png", 4)[0] for each in places]
    wanted = [np.asarray(picture) for rows in put for row in rows for picture in row]
    # Each once, and the images, which both rows were shown, once for both.
    assert len(read.pictures) == len(wanted) - 2
    assert all(any(np.array_equal(one, shown) for shown in read.pictures) for one in wanted)


def test_a_page_says_whatever_a_name_says(table):
    table.rows[0].name = HOSTILE
    finish(table, table.rows[0], captions=[HOSTILE, HOSTILE])
    text = page(collect(table))
    read = Page(text)
    assert "script" not in read.tags and read.said.count(HOSTILE) > 5
    assert "Content-Security-Policy" in text and "http://" not in text.replace("http://www.w3.org/", "")


def test_prompts_that_differ_between_rows_are_shown_with_their_rows(table):
    for row, captions in zip(table.rows, (["a ball", "one house"], ["a ball", "another house"]), strict=False):
        finish(table, row, captions)
    said = Page(page(collect(table))).said
    assert said.count("a ball") == 1 and said.count("one house") == said.count("another house") == 1
    assert said.index("prompt") < said.index("one house") < said.index("another house")


def test_a_curve_shows_every_row_and_its_intervals(place):
    table = tables.read("components", base="scenes")
    for row in table.rows[:3]:
        finish(table, row)
    results = collect(table)
    assert results.curve == ["lpips-scenes", "miou"]
    drawn = plots.image(plots.curve(results))
    assert {row.name for row in table.rows[:3]} <= set(Page(plots.svg(plots.curve(results), "curve")).said)
    for cells in results.lines.values():
        cells[0].interval = None
    assert (np.asarray(plots.image(plots.curve(results))) != np.asarray(drawn)).any()
    assert plots.curve(collect(tables.read("table1", base="scenes"))) is None


def test_the_command_makes_the_page_whatever_is_finished(table, place, capsys):
    path = place / "runs" / "tables" / "table1-scenes.html"
    assert main(["report", "table1", "base=scenes"]) == 0
    assert "page: runs/tables/table1-scenes.html" in capsys.readouterr().out
    assert "8 commands" not in path.read_text() and "4 commands are left" in Page(path.read_text()).text
    finish(table, table.rows[0])
    assert main(["report", "table1", "base=scenes", "wandb=online"]) == 1
    told = capsys.readouterr().out
    assert "W&B has no key here" in told and "table1-scenes.html is there" in told
    assert Page(path.read_text()).pictures


def test_a_report_of_wandb_has_a_panel_per_metric_and_the_runs_of_the_table_alone(place):
    table = tables.read("components", base="scenes")
    places = [finish(table, row) for row in table.rows[:2]]
    made = panels.report(collect(table), "somebody")
    text, measured, trained, painted = made.blocks
    assert "| N=3 | 1/1 |" in text.text and (made.project, made.entity) == ("lumen", "somebody")
    assert [panel.metrics for panel in measured.panels[:2]] == [["test/miou"], ["test/lpips-scenes"]]
    assert (measured.panels[2].x.name, measured.panels[2].y.name) == ("test/lpips-scenes", "test/miou")
    assert [panel.y for panel in trained.panels] == [["val/loss"], ["val/response"]]
    assert painted.panels[0].media_keys == ["grid"]
    blocks = made._to_model().model_dump(by_alias=True)["spec"]["blocks"]  # what would be sent
    grids = [block["metadata"]["runSets"][0] for block in blocks if block["type"] == "panel-grid"]
    ids = [(place / "id").read_text() for place in places]
    assert [runs["filters"]["filters"][0]["value"] for runs in grids] == [ids] * 3
    grouped = [{"section": "config", "name": "conditioning.value.components"}]
    assert [runs["grouping"] for runs in grids] == [grouped, grouped, []]


def test_rows_measured_anew_are_trained_elsewhere(place):
    table = tables.read("table1", base="scenes", flags=["eval.sampling.steps=30"])
    row = table.rows[0]
    trained, measured = table.commands(row, 0)
    finish(table, row)
    blocks = panels.report(collect(table), "somebody").blocks
    of = {block.runsets[0].name: block.runsets[0].filters for block in blocks[1:]}
    assert folder.identity(measured) in of["measured"] and folder.identity(measured) in of["painted"]
    assert folder.identity(trained) in of["trained"] and blocks[1].runsets[0].groupby == ["config.backbone.name"]


def test_nothing_finished_is_nothing_to_send(table):
    with pytest.raises(Mistake, match="no row of table1 is finished"):
        panels.report(collect(table), "somebody")


def test_a_report_is_sent_once_and_then_renewed(table, monkeypatch, capsys):
    sent, made = [], finish(table, table.rows[0])

    def save(self):
        sent.append(self.id)
        self.id = "Vmlldzox"

    def refuse(**_):
        raise wandb.errors.CommError("no answer\nat all")

    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setattr(wandb, "Api", refuse)
    results = collect(table)
    assert not panels.publish(results)
    assert "W&B did not take the report (no answer); runs/tables/table1-scenes.html is" in capsys.readouterr().out
    server = SimpleNamespace(settings={"entity": "me"}, _service_api=SimpleNamespace(app_url="https://wandb.here"))
    monkeypatch.setattr(wandb, "Api", lambda **_: server)
    monkeypatch.setattr(wr.Report, "save", save)
    (made / "wandb" / "offline-run-1-a").mkdir(parents=True)
    (made / "wandb" / "offline-run-1-a" / "run-a.wandb").touch()
    assert panels.publish(results) and panels.publish(results)
    told = capsys.readouterr().out
    assert sent == ["", "Vmlldzox"] and "report: https://wandb.here/me/lumen/reports/table1-on-scenes" in told
    assert f"1 of its runs were logged offline; `wandb sync {made}/wandb/offline-run-1-a` sends them." in told
