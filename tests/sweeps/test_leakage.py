"""Leakage of layouts: scores of reference layouts, one grid for all rows, and reproducible scores."""

from dataclasses import replace

import pytest
import torch

from datamodules.coco_stuff import CocoStuff
from lumen.__main__ import main
from lumen.conditionings.neural_layout import NeuralLayout
from lumen.core.errors import BadConfig
from lumen.core.registry import datamodules
from lumen.core.resize import resize
from lumen.data.datamodule import DataModule
from lumen.data.source import LoaderConfig
from lumen.evaluation.probe_dataset import collect_cells
from lumen.runs.directory import run_directory
from lumen.sweeps import leakage
from lumen.sweeps.leakage import coarsest_grid, probe, reference_layouts
from lumen.sweeps.table import Row
from lumen.sweeps.table_reader import read_table
from lumen.training.fit_conditioning import fit_conditioning

SMALL = ["size=32", "data.images=16", "measure.images=6", "conditioning.vectors=400", "conditioning.per_image=25"]


@pytest.fixture(scope="module")
def data():
    loader_config = LoaderConfig(size=32, batch_size=16, eval_images=32)
    return DataModule(datamodules.build("scenes", images=96, loader_config=loader_config))


def probe_all(data, **layouts):
    """Return the scores of layouts, and of the reference layouts, by name and target."""
    layouts = {(name, 0): layout for name, layout in layouts.items()}
    num_classes = len(data.source.classes)
    grid = coarsest_grid(layouts.values(), next(iter(data.test_dataloader())))
    layouts |= reference_layouts(grid, num_classes)
    train, held_out = (
        collect_cells(batches, layouts, grid, num_classes, "cpu")
        for batches in (data.sample_dataloader(96), data.test_dataloader())
    )
    scores = {name: probe(train, held_out, (name, 0), num_classes) for name, _ in layouts}
    return {name: {target: value for target, (value, _) in targets.items()} for name, targets in scores.items()}


def test_reference_layouts_of_leakage_have_the_scores_of_their_names(data):
    scores = probe_all(data, image=lambda batch: batch.image)
    nothing, position, labels, pixels = (
        scores[f"*{name}*"] for name in ("nothing", "the position", "the true labels", "all pixels")
    )
    assert pixels["colour"] > 0.999 and scores["image"] == pixels
    assert all(-0.2 < nothing[target] <= 0 for target in ("colour", "edges", "depth")) and nothing["label"] < 0.1
    assert labels["label"] > 0.8 and 0.1 < labels["colour"] < 0.9
    assert position["depth"] > 0.3 and all(position[target] > nothing[target] for target in nothing)


def test_leakage_of_mismatched_layouts_is_that_of_the_position(data):
    def shuffled(batch):
        return resize(batch.image.roll(1, 0), (4, 4))

    scores = probe_all(data, blank=lambda batch: torch.ones(len(batch.id), 2, 4, 4), shuffled=shuffled)
    assert scores["blank"] == pytest.approx(scores["*nothing*"], abs=1e-6)
    for target, floor in scores["*the position*"].items():
        assert scores["shuffled"][target] < floor + 0.02


def test_leakage_grows_with_the_number_of_components(data, backbone):
    layouts = {f"N={n}": NeuralLayout(n, vectors="all", backbone=backbone) for n in (1, 5, 20)}
    for layout in layouts.values():
        fit_conditioning(layout, data, 0)
    scores = probe_all(data, **layouts)
    for few, more in (("N=1", "N=5"), ("N=5", "N=20")):
        assert scores[few]["colour"] < scores[more]["colour"] + 0.01
    assert scores["N=1"]["colour"] + 0.1 < scores["N=20"]["colour"] <= 1


def test_leakage_uses_one_grid_for_all_rows(data):
    batch = next(iter(data.test_dataloader()))
    fine, coarse = (lambda batch, n=n: torch.zeros(len(batch.id), 1, n, n) for n in (32, 3))
    assert coarsest_grid([fine], batch) == (4, 4) and coarsest_grid([fine, coarse], batch) == (3, 3)
    scores = probe_all(data, fine=lambda batch: batch.image, coarse=lambda batch: resize(batch.image, (2, 2)))
    assert scores["fine"]["colour"] > 0.999 > scores["coarse"]["colour"]


def test_leakage_command_prints_and_writes_the_table(workdir, capsys):
    assert main(["leakage", "components", "base=scenes", *SMALL]) == 0
    output = capsys.readouterr().out
    text = next((workdir / "runs/tables").glob("leakage-components-scenes-*.md")).read_text()
    assert text in output and text.count("| N=") == 6 and "Axes of 0 of 6 layouts" in text


@pytest.mark.long
def test_leakage_is_reproducible_and_uses_the_axes_of_finished_runs(workdir):
    table = read_table("components", "scenes", 1, SMALL)
    table = replace(table, rows=table.rows[:2])
    before = leakage.leakage(table)[0].splitlines()
    config = table.config(table.rows[0], 0)
    basis = leakage._build_conditioning(config, leakage.build_data(config), leakage._find_basis(config)).basis
    replace(basis, axes=basis.axes.roll(1, 0)).save(run_directory(config) / "basis.safetensors")
    after = leakage.leakage(table)[0].splitlines()
    changed = [old[:5] for old, new in zip(before, after, strict=True) if old != new]
    assert changed == ["| N=1", before[-1][:5]] and "Axes of 1 of 2 layouts" in after[-1]


@pytest.mark.long
def test_leakage_fits_every_seed_and_shows_a_dash_without_targets(workdir, capsys):
    CocoStuff.fake("coco")
    overrides = ["data.root=coco", "backbone=dino", "backbone.size=tiny", "backbone.patch=8", "backbone.weights=none"]
    overrides += [
        "backbone.layer=[2,3]",
        "size=32",
        "conditioning.vectors=60",
        "conditioning.per_image=20",
        "workers=0",
    ]
    assert main(["leakage", "components", "seeds=2", *overrides]) == 0
    output = capsys.readouterr().out.splitlines()
    rows = [line.split(" | ") for line in output if line.startswith(("| N=", "| *"))]
    assert len(rows) == 10 and all(row[4] == "–" for row in rows)
    assert all(("±" in row[2]) == row[0].startswith("| N=") for row in rows)


def test_leakage_of_rows_on_different_images_is_an_error():
    table = replace(
        read_table("table1", base="scenes"), rows=[Row("a", "size=32", "", {}), Row("b", "size=64", "", {})]
    )
    with pytest.raises(BadConfig, match="the rows of table1 differ in data or size"):
        leakage.leakage(table)
