"""What a table says of its rows: intervals, differences that are real, anchors, published figures, in three formats."""

import csv
import io

import pytest
import torch

from lumen.__main__ import main
from lumen.core.errors import Mistake
from lumen.core.files import write_json
from lumen.evaluation.metrics.lpips import Diversity
from lumen.evaluation.scores import Samples, save_samples
from lumen.runs import directory as folder
from lumen.sweeps import table as tables
from lumen.sweeps.reports import text as formats
from lumen.sweeps.results import collect

RULES = {"images": 200, "samples": 2, "sampling": {"sampler": "dpm", "steps": 15, "guidance": 2.0}, "hash": "abc"}


def noise(key, n=200):
    return torch.randn(n, generator=torch.Generator().manual_seed(key))


def finish(table, row, seed, values, rules=RULES, title="lpips-scenes", **figures):
    """A finished run whose images brought `values` to a metric."""
    place = list(table.commands(row, seed))[-1]
    figures |= {f"test/{title}": float(values.mean()), f"test/{title}_95": [0.0, 1.0], "protocol": rules}
    save_samples(
        place / "samples.parquet",
        {"test": Samples([f"{i:03d}" for i in range(len(values))], [""] * len(values), {title: values})},
    )
    write_json(place / "metrics.json", figures)


@pytest.fixture
def table(place):
    return tables.read("table1", base="scenes")


def test_rows_on_the_same_images_are_told_apart_by_less_than_their_intervals(table):
    hard = noise(1)  # how hard each image is, for every row alike
    clip, dino, dinov2, sd = table.rows
    finish(table, clip, 0, hard + 0.1 * noise(2))
    finish(table, dino, 0, hard + 0.1 * noise(3) + 0.1)
    finish(table, dinov2, 0, hard + 0.1 * noise(4) + 0.1)
    finish(table, sd, 0, noise(5) + hard.mean())
    cells = {name: line[0] for name, line in collect(table).lines.items()}
    best = max(cells, key=lambda name: cells[name].value)
    assert best in ("DINO", "DINOv2") and cells[best].best
    assert cells["CLIP"].apart  # its interval and the best's overlap, but not on the same images
    assert cells["CLIP"].interval[1] > cells[best].interval[0]
    assert not cells[{"DINO": "DINOv2", "DINOv2": "DINO"}[best]].apart
    assert not cells["SD"].apart  # as far from the best, but with noise of its own


def test_an_interval_holds_the_truth_as_often_as_it_says(table):
    inside = 0
    for trial in range(200):
        low, high = Diversity.interval(noise(trial, n=60))
        inside += low <= 0 <= high
    assert 180 <= inside <= 198


def test_seeds_widen_an_interval(place):
    table, values = tables.read("table1", base="scenes", seeds=3), noise(1)
    row = table.rows[0]
    for seed in range(3):
        finish(table, row, seed, values + seed)
    (cell,) = collect(table).lines["CLIP"]
    assert cell.value == pytest.approx(values.mean().item() + 1) and cell.deviation == pytest.approx(1)
    assert cell.interval[1] - cell.interval[0] > 1
    assert "± 1 [" in formats.markdown(collect(table)) and "between seeds" in formats.markdown(collect(table))


def test_every_format_has_every_figure(table):
    for number, row in enumerate(table.rows[:2]):
        finish(table, row, 0, noise(number), **{"real/lpips-scenes": 0.25, "real/lpips-scenes_95": [0.2, 0.3]})
    results = collect(table)
    page, paper = formats.markdown(results), formats.latex(results)
    lines = list(csv.DictReader(io.StringIO(formats.as_csv(results))))
    for row in table.rows[:2]:
        cell = results.lines[row.name][0]
        assert f"{cell.value:.4g}" in page and f"{cell.value:.4g}" in paper
        line = next(line for line in lines if line["row"] == row.name)
        assert float(line["lpips-scenes"]) == cell.value and float(line["lpips-scenes_low"]) == cell.interval[0]
        assert float(line["miou (paper, coco_stuff)"]) == row.published["coco_stuff"]["miou"]
    assert "| *real images* |  | 0.25 [0.2, 0.3] |" in page and r"\emph{real images} & 0.25 [0.2, 0.3]" in paper
    assert "| DINOv2 | 0/1 | – |" in page and "2 commands are left; `lumen ablate table1 base=scenes seeds=1`" in page
    body = [line for line in paper.splitlines() if line.endswith(r"\\")]
    assert {line.count(" & ") for line in body} == {body[0].count(" & ")}
    assert "_" not in paper.replace(r"\_", "").partition(r"\toprule")[2]


def test_rows_that_were_not_measured_alike_make_no_table(table):
    for row, images in zip(table.rows, (96, 12), strict=False):
        finish(table, row, 0, noise(1), RULES | {"images": images, "hash": str(images)})
    with pytest.raises(Mistake, match=r"not measured alike \(images: 12 or 96\)"):
        collect(table)


def test_parts_of_a_metric_are_columns_of_their_own(table, capsys):
    finish(table, table.rows[0], 0, noise(1), **{"test/miou": 0.5, "test/miou/sky": 0.75, "test/miou/road": 0.25})
    assert main(["table", "table1", "base=scenes", "parts=miou"]) == 0
    told = capsys.readouterr().out
    assert "| row | seeds | miou/road | miou/sky |" in told and "| CLIP | 1/1 | 0.25 | 0.75 |" in told
    assert main(["table", "table1", "base=scenes", "parts=tifa"]) == 2
    assert "no run of this table has parts of 'tifa'; there are parts of: miou." in capsys.readouterr().err


def test_rows_can_be_measured_anew_without_training(place):
    table = tables.read("table1", base="scenes", flags=["eval.sampling.steps=30"])
    trained, measured = table.commands(table.rows[0], 0).items()
    assert trained[1] == "lumen train scenes backbone=clip seed=0"
    assert measured[1] == f"lumen eval {trained[0]} sampling.steps=30"
    assert measured[0] == trained[0] / "eval" / "sampling.steps=30"
    assert table.file.name == "table1-scenes-eval.sampling.steps=30" and not folder.figures(measured[0])
