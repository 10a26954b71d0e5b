"""Scores of a finished run, and the sheet of its worst samples, which equal what was scored."""

import json
import sys

import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from lumen.__main__ import main
from lumen.config.experiment import reload
from lumen.core.interfaces import Batch
from lumen.core.registry import metrics
from lumen.core.visualize import tile_images
from lumen.evaluation.sample_values import load_values
from lumen.evaluation.scores import load_scores
from lumen.runs.build import build_metrics, build_task
from lumen.runs.data import build_data
from lumen.runs.directory import load_run_config
from lumen.runs.gallery import regenerate_samples
from lumen.runs.worst import rank_samples


@pytest.fixture(scope="module")
def config(finished):
    return reload(load_run_config(finished))


def test_samples_file_aggregates_to_the_results_of_the_run(finished):
    results, images = json.loads((finished / "metrics.json").read_text()), load_scores(finished / "samples.parquet")
    assert len(images.scores) > 4
    for key, scores in images.scores.items():
        metric = metrics.factory(key.partition("-")[0])
        assert float(metric.aggregate(scores)) == results[f"test/{key}"]
        assert metric.interval(scores) == results[f"test/{key}_95"]


def test_samples_file_names_its_columns_by_the_metrics(finished):
    table = pq.read_table(finished / "samples.parquet")
    assert {"miou", "miou.sky.intersection", "miou.sky.union", "si_depth", "lpips-scenes"} <= set(table.column_names)
    assert (
        len(table) == 3 * 2 and set(table["kind"].to_pylist()) == {"test"} and len(set(table["seed"].to_pylist())) == 6
    )
    kinds = pq.read_table(finished / "reference_rows.parquet")["kind"].to_pylist()
    counts = {"real": 3, "vae": 3, "text": 6, "shuffled": 6}  # another run may have scored those that runs share
    assert "shuffled" in kinds and all(kinds.count(kind) == counts[kind] for kind in kinds)


def test_worst_samples_are_generated_again_to_the_bit(finished, config):
    values = load_values(finished / "samples.parquet", "lpips")
    samples = [(value.image, value.sample) for value in values]
    pictures, legend = regenerate_samples(finished, config, samples)
    data = build_data(config)
    metric = build_metrics(config, data, build_task(config, data))["lpips"]
    for batch in data.test_dataloader():  # scores depend on the batch as well
        generated = torch.stack([torch.stack([pictures[i, k].sample for k in range(2)]) for i in batch.id])
        scores = metric.sample_values(metric.score_samples(Batch(batch.image, batch.caption, batch.id), generated))
        assert scores.flatten().tolist() == [value.value for value in values if value.image in batch.id]
    assert "components" in legend and torch.equal(pictures[batch.id[0], 0].image, batch.image[0])
    alone, _ = regenerate_samples(finished, config, samples[-1:])
    assert torch.equal(alone[samples[-1]].sample, pictures[samples[-1]].sample)


def test_worst_prints_samples_in_order_and_writes_a_sheet(finished, tmp_path, capsys):
    values = sorted(load_values(finished / "samples.parquet", "si_depth"), key=lambda v: -v.value)  # lower is better
    command = ["worst", str(finished), "metric=si_depth", "n=3", f"out={tmp_path}/sheet.png"]
    assert main(command) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[:2] for line in lines] == [[v.image, f"sample {v.sample}"] for v in values[:3]]
    assert values[0].caption in lines[0] and f"{values[0].value:.4g}" in lines[0] and "sheet.png" in last
    blank = [[torch.zeros(3, 32, 32)] * 3] * 3
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width == tile_images(blank, [""] * 3, [""] * 3).width and sheet.height > 3 * 160
        assert "metric=si_depth n=3 out=sheet.png" in sheet.info["command"]
    assert main(command) == 0  # an earlier sheet is replaced
    best = rank_samples(finished, "si_depth", 1, best=True)
    assert best == values[-1:]


def test_worst_refuses_metrics_without_values_of_samples(finished, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)  # a mistake is named before anything is loaded
    for options in (["metric=kid"], ["metric=nothing"], ["sampling.steps=9"], ["n=0"]):
        assert main(["worst", str(finished), f"out={tmp_path}/sheet.png", *options]) == 2
        message = capsys.readouterr().err
        assert options[0].partition("=")[0] in message or "lpips-scenes, miou, si_depth, tifa" in message
    assert not list(tmp_path.iterdir())
