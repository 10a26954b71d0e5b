"""The leakage of layouts: anchors are what their names say, rows are comparable, and figures come again."""

from dataclasses import replace

import pytest
import torch

from datamodules.coco_stuff import CocoStuff
from lumen.__main__ import main
from lumen.conditionings.neural_layout import NeuralLayout
from lumen.core.errors import BadConfig
from lumen.core.registry import datamodules
from lumen.core.resize import resize
from lumen.data.datamodule import Loading
from lumen.evaluation.probe_dataset import look
from lumen.runs.directory import place_of
from lumen.sweeps import leakage
from lumen.sweeps.leakage import anchors, coarsest, judged
from lumen.sweeps.table import Row, read
from lumen.training.fit_conditioning import fit

SMALL = ["size=32", "data.images=16", "measure.images=6", "conditioning.vectors=400", "conditioning.per_image=25"]


@pytest.fixture(scope="module")
def data():
    loading = Loading(size=32, batch=16, measured=32)
    return datamodules.build("scenes", images=96, loading=loading)


def probed(data, **layouts):
    """Figures of layouts, and of the anchors, by name."""
    layouts = {(name, 0): layout for name, layout in layouts.items()}
    grid = coarsest(layouts.values(), next(iter(data.test_dataloader())))
    layouts |= anchors(grid, len(data.classes))
    taught, held = (
        look(some, layouts, grid, len(data.classes), "cpu")
        for some in (data.sample_dataloader(96), data.test_dataloader())
    )
    found = {name: judged(taught, held, (name, 0), len(data.classes)) for name, _ in layouts}
    return {name: {measure: figure for measure, (figure, _) in some.items()} for name, some in found.items()}


def test_anchors_are_what_their_names_say(data):
    found = probed(data, image=lambda batch: batch.image)
    nothing, position, labels, pixels = (
        found[f"*{w}*"] for w in ("nothing", "the position", "the true labels", "all pixels")
    )
    assert pixels["colour"] > 0.999 and found["image"] == pixels
    assert all(-0.2 < nothing[measure] <= 0 for measure in ("colour", "edges", "depth")) and nothing["label"] < 0.1
    assert labels["label"] > 0.8 and 0.1 < labels["colour"] < 0.9
    assert position["depth"] > 0.3 and all(position[measure] > nothing[measure] for measure in nothing)


def test_a_layout_of_other_images_tells_no_more_than_the_position(data):
    def shuffled(batch):
        return resize(batch.image.roll(1, 0), (4, 4))

    found = probed(data, blank=lambda batch: torch.ones(len(batch.id), 2, 4, 4), shuffled=shuffled)
    assert found["blank"] == pytest.approx(found["*nothing*"], abs=1e-6)
    for measure, floor in found["*the position*"].items():
        assert found["shuffled"][measure] < floor + 0.02


def test_more_components_tell_more(data, backbone):
    layouts = {f"N={n}": NeuralLayout(n, vectors="all", backbone=backbone) for n in (1, 5, 20)}
    for layout in layouts.values():
        fit(layout, data, 0)
    found = probed(data, **layouts)
    for few, more in (("N=1", "N=5"), ("N=5", "N=20")):
        assert found[few]["colour"] < found[more]["colour"] + 0.01
    assert found["N=1"]["colour"] + 0.1 < found["N=20"]["colour"] <= 1


def test_rows_are_asked_of_one_grid(data):
    batch = next(iter(data.test_dataloader()))
    fine, coarse = (lambda batch, n=n: torch.zeros(len(batch.id), 1, n, n) for n in (32, 3))
    assert coarsest([fine], batch) == (4, 4) and coarsest([fine, coarse], batch) == (3, 3)
    found = probed(data, fine=lambda batch: batch.image, coarse=lambda batch: resize(batch.image, (2, 2)))
    assert found["fine"]["colour"] > 0.999 > found["coarse"]["colour"]


def test_the_command_prints_the_table_and_keeps_it(place, capsys):
    assert main(["leakage", "components", "base=scenes", *SMALL]) == 0
    told = capsys.readouterr().out
    kept = next((place / "runs/tables").glob("leakage-components-scenes-*.md")).read_text()
    assert kept in told and kept.count("| N=") == 6 and "Axes of 0 of 6 layouts" in kept


def test_figures_come_again_and_a_finished_run_brings_its_axes(place):
    table = read("components", "scenes", 1, SMALL)
    table = replace(table, rows=table.rows[:2])
    before = leakage.leakage(table)[0].splitlines()
    config = table.config(table.rows[0], 0)
    basis = leakage._conditioning(config, leakage.build_data(config)).basis()
    replace(basis, axes=basis.axes.roll(1, 0)).save(place_of(config) / "basis.safetensors")
    after = leakage.leakage(table)[0].splitlines()
    apart = [old[:5] for old, new in zip(before, after, strict=True) if old != new]
    assert apart == ["| N=1", "Linea"] and "Axes of 1 of 2 layouts" in after[-1]


def test_seeds_are_fitted_each_and_what_is_not_known_is_a_dash(place, capsys):
    CocoStuff.fake("coco")
    flags = ["data.root=coco", "backbone=dino", "backbone.size=tiny", "backbone.patch=8", "backbone.weights=none"]
    flags += ["backbone.layer=[2,3]", "size=32", "conditioning.vectors=60", "conditioning.per_image=20", "workers=0"]
    assert main(["leakage", "components", "seeds=2", *flags]) == 0
    told = capsys.readouterr().out.splitlines()
    rows = [line.split(" | ") for line in told if line.startswith(("| N=", "| *"))]
    assert len(rows) == 10 and all(row[4] == "–" for row in rows)
    assert all(("±" in row[2]) == row[0].startswith("| N=") for row in rows)


def test_rows_of_other_images_make_no_table():
    table = replace(read("table1", base="scenes"), rows=[Row("a", "size=32", "", {}), Row("b", "size=64", "", {})])
    with pytest.raises(BadConfig, match="the rows of table1 differ in data or size"):
        leakage.leakage(table)
