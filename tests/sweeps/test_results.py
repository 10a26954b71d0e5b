"""Results of a table: intervals, significance, reference rows and published values, in three text formats."""

import csv
import io
import sys

import pytest
import torch

from lumen.__main__ import main
from lumen.core.errors import Mistake
from lumen.core.files import write_json
from lumen.evaluation.metrics.lpips import Diversity
from lumen.runs.directory import load_results
from lumen.sweeps.reports import text as formats
from lumen.sweeps.results import Results, collect
from lumen.sweeps.table_reader import read_table


def noise(seed, n=200):
    return torch.randn(n, generator=torch.Generator().manual_seed(seed))


def test_significance_is_paired_by_image(table, finish_run):
    difficulty = noise(1)  # of each image, the same for every row
    clip, dino, dinov2, sd = table.rows
    finish_run(table, clip, 0, difficulty + 0.1 * noise(2))
    finish_run(table, dino, 0, difficulty + 0.1 * noise(3) + 0.1)
    finish_run(table, dinov2, 0, difficulty + 0.1 * noise(4) + 0.1)
    finish_run(table, sd, 0, noise(5) + difficulty.mean())
    cells = {name: row[0] for name, row in collect(table).rows.items()}
    best = max(cells, key=lambda name: cells[name].value)
    assert best in ("DINO", "DINOv2") and cells[best].best
    assert cells["CLIP"].significant  # although its interval and the best's overlap
    assert cells["CLIP"].interval[1] > cells[best].interval[0]
    assert not cells[{"DINO": "DINOv2", "DINOv2": "DINO"}[best]].significant
    assert not cells["SD"].significant  # as far from the best, but with noise of its own


@pytest.mark.parametrize(("images", "is_marked"), [(19, False), (20, True)])
def test_rows_of_few_images_are_not_called_different(table, finish_run, images, is_marked):
    clip, dino, *_ = table.rows
    finish_run(table, clip, 0, noise(1, images))
    finish_run(table, dino, 0, noise(1, images) + 10)
    results = collect(table)
    assert results.rows["CLIP"][0].significant is is_marked
    assert "over images, one training seed" in formats.to_markdown(results)
    assert "over images, one training seed" in formats.to_latex(results)


def test_interval_covers_the_truth_at_its_level():
    covered = 0
    for trial in range(100):
        low, high = Diversity.interval(noise(trial, n=60))
        covered += low <= 0 <= high
    assert 89 <= covered <= 99


def test_interval_widens_with_seeds(workdir, finish_run):
    table, scores = read_table("table1", base="scenes", seeds=3), noise(1)
    for seed in range(3):
        finish_run(table, table.rows[0], seed, scores + seed)
    (cell,) = collect(table).rows["CLIP"]
    assert cell.value == pytest.approx(scores.mean().item() + 1) and cell.deviation == pytest.approx(1)
    assert cell.interval[1] - cell.interval[0] > 1
    assert "± 1 [" in formats.to_markdown(collect(table)) and formats.SEEDS_LEGEND in formats.to_markdown(
        collect(table)
    )


def test_text_formats_hold_every_value(table, finish_run):
    for number, row in enumerate(table.rows[:2]):
        finish_run(table, row, 0, noise(number), **{"real/lpips-scenes": 0.25, "real/lpips-scenes_95": [0.2, 0.3]})
    results = collect(table)
    page, paper = formats.to_markdown(results), formats.to_latex(results)
    lines = list(csv.DictReader(io.StringIO(formats.to_csv(results))))
    for row in table.rows[:2]:
        cell = results.rows[row.name][0]
        assert f"{cell.value:.4g}" in page and f"{cell.value:.4g}" in paper
        line = next(line for line in lines if line["row"] == row.name)
        assert float(line["lpips-scenes"]) == cell.value and float(line["lpips-scenes_low"]) == cell.interval[0]
        assert float(line["miou (paper, coco_stuff)"]) == row.published["coco_stuff"]["miou"]
    assert "| *real images* |  | 0.25 [0.2, 0.3] |" in page and r"\emph{real images} & 0.25 [0.2, 0.3]" in paper
    assert "| DINOv2 | 0/1 | – |" in page and "2 commands are left; `lumen ablate table1 base=scenes seeds=1`" in page
    body = [line for line in paper.splitlines() if line.endswith(r"\\")]
    assert {line.count(" & ") for line in body} == {body[0].count(" & ")}
    assert "_" not in paper.replace(r"\_", "").partition(r"\toprule")[2]


def test_breakdown_of_a_metric_has_a_column_per_part(table, finish_run, capsys):
    finish_run(table, table.rows[0], 0, noise(1), **{"test/miou": 0.5, "test/miou/sky": 0.75, "test/miou/road": 0.25})
    assert main(["table", "table1", "base=scenes", "parts=miou"]) == 0
    output = capsys.readouterr().out
    assert "| row | seeds | mIoU: road | mIoU: sky |" in output and "| CLIP | 1/1 | 0.25 | 0.75 |" in output
    assert main(["table", "table1", "base=scenes", "parts=tifa"]) == 2
    message = capsys.readouterr().err
    assert "'tifa'" in message and "miou" in message


def test_rows_evaluated_again_are_not_trained_again(workdir):
    table = read_table("table1", base="scenes", overrides=["eval.sampling.steps=30"])
    (run_dir, train), (eval_dir, evaluate) = table.commands(table.rows[0], 0).items()
    assert train == "lumen train scenes backbone=clip seed=0"
    assert evaluate == f"lumen eval {run_dir} sampling.steps=30"
    assert eval_dir == run_dir / "eval" / "sampling.steps=30" and not load_results(eval_dir)
    assert table.output_path(".md").name == "table1-scenes-eval.sampling.steps=30.md"


def test_curve_columns_are_metrics_and_not_their_parts(workdir, finish_run):
    table = read_table("components", base="scenes")
    values = {"test/miou": 0.5, "test/miou/sky": 0.75}
    finish_run(table, table.rows[0], 0, noise(1), **values)
    assert collect(table).curve_columns == ["lpips-scenes", "miou"] and collect(table, "miou").curve_columns == []
    assert collect(read_table("table1", base="scenes")).curve_columns == []


@pytest.mark.parametrize("values", [{}, {"test/miou": 0.5}])
def test_results_of_runs_without_scores_need_no_statistics(table, finish_run, monkeypatch, values):
    finish_run(table, table.rows[0], 0, noise(1), **values)
    (next(iter(table.commands(table.rows[0], 0))) / "samples.parquet").unlink()
    monkeypatch.setitem(sys.modules, "lumen.sweeps.statistics", None)
    results = collect(table)
    assert isinstance(results, Results) and results.rows["CLIP"][-1].interval == (0.0, 1.0)


@pytest.mark.parametrize(("fingerprints", "is_comparable"), [("aa", True), ("ab", False), ("a-", True), ("--", True)])
def test_rows_of_one_table_were_trained_on_one_data_set(fingerprints, is_comparable, workdir, finish_run):
    table = read_table("table1", base="coco_stuff", overrides=["data.root=/nowhere"])
    for row, fingerprint in zip(table.rows, fingerprints, strict=False):
        finish_run(table, row, 0, noise(1))
        run = next(iter(table.commands(row, 0)))
        facts = {"command": "", "commit": None, "hardware": {"gpus": [], "cpus": 1, "machine": ""}, "versions": {}}
        if fingerprint != "-":
            write_json(run / "provenance.json", facts | {"data": fingerprint})
    if is_comparable:
        assert collect(table).num_finished[table.rows[0].name] == 1  # nothing is asked of the root
    else:
        with pytest.raises(Mistake, match="different data .*a, b"):
            collect(table)
