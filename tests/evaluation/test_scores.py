"""Scores of images and samples: the table of a finished evaluation, and the partial scores of an interrupted one."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from lumen.core.errors import BadFile, Mistake
from lumen.core.interfaces import Metric
from lumen.core.registry import metrics
from lumen.evaluation.sample_values import load_values
from lumen.evaluation.scores import (
    PartialScores,
    PerImageScores,
    SampleScores,
    describe_samples,
    load_scores,
    save_scores,
)

OLD_FILES = sorted((Path(__file__).parents[1] / "runs" / "fixtures").rglob("samples.parquet"))
IDS, CAPTIONS, FILES = ["b", "a", "c"], ["B", "A", "C"], ["val/b.jpg", "val/a.jpg", None]
PARTS = ["sky.intersection", "road.intersection", "sky.union", "road.union"]
SEEDS = torch.tensor([[1, 2**62], [3, 4], [5, 6]])


def rows_of(name: str, *shape: int) -> torch.Tensor:
    """Return scores of three images as a metric makes them, with samples of two."""
    return torch.rand(3, *shape, generator=torch.Generator().manual_seed(len(name))).double()


@pytest.fixture
def path(tmp_path) -> Path:
    """Scores of three images with two samples each by four kinds of metrics."""
    miou, depth, tifa, fid = rows_of("miou", 2, 2, 2), rows_of("depth", 2), rows_of("tifa", 2), rows_of("fid", 3, 5)
    distances = torch.tensor([[[0.0, d], [d, 0.0]] for d in (0.5, 0.25, 0.75)])
    samples = {
        "miou": SampleScores(miou, PARTS, miou.mean((2, 3))),
        "si_depth": SampleScores(depth, [""], depth),
        "lpips-scenes": SampleScores(distances, ["0", "1"], distances.sum(2)),
        "fid": SampleScores(fid[:, None], [], None, is_shared=True),
    }  # fmt: skip
    scores = {key: metrics.factory(key.partition("-")[0]).combine(samples.rows) for key, samples in samples.items()}
    images = PerImageScores(IDS, CAPTIONS, scores | {"tifa": tifa}, samples, SEEDS, FILES)
    save_scores(tmp_path / "samples.parquet", {"test": images})
    return tmp_path / "samples.parquet"


def test_scores_file_returns_every_row_ordered_by_id(tmp_path):
    scores = {"scalar": torch.rand(3), "counts": torch.rand(3, 2, 4)}
    fewer = {"counts": torch.rand(3, 1, 4)}  # as a reference row with one sample per image has
    tables = {"test": scores, "real": fewer}
    tables = {kind: PerImageScores(["b", "a", "c"], ["B", "A", "C"], table) for kind, table in tables.items()}
    save_scores(tmp_path / "s.parquet", tables)
    test, real = load_scores(tmp_path / "s.parquet"), load_scores(tmp_path / "s.parquet", "real")
    assert test.id == ["a", "b", "c"] and test.caption == ["A", "B", "C"]
    assert all(torch.equal(test.scores[key], rows[[1, 0, 2]]) for key, rows in scores.items())
    assert set(real.scores) == {"counts"} and torch.equal(real.scores["counts"], fewer["counts"][[1, 0, 2]])
    with pytest.raises(BadFile, match="vae"):
        load_scores(tmp_path / "s.parquet", "vae")


def test_scores_file_has_a_row_per_sample_and_flat_columns(path):
    table = pq.read_table(path)
    keys = ["kind", "image", "sample", "seed", "file", "caption"]
    names = [
        "miou",
        *(f"miou.{part}" for part in PARTS),
        "si_depth",
        "lpips-scenes",
        "lpips-scenes.0",
        "lpips-scenes.1",
    ]
    assert set(table.column_names) == {*keys, *names, "fid.features", "tifa.features"}
    assert table.column_names[:6] == keys
    rows = table.to_pylist()
    assert [(row["image"], row["sample"], row["seed"]) for row in rows] == [
        ("a", 0, 3), ("a", 1, 4), ("b", 0, 1), ("b", 1, 2**62), ("c", 0, 5), ("c", 1, 6)
    ]  # fmt: skip
    assert [row["file"] for row in rows[::2]] == ["val/a.jpg", "val/b.jpg", None] and rows[3]["caption"] == "B"
    worst = table.sort_by("si_depth").to_pylist()[-1]
    assert worst["si_depth"] == rows_of("depth", 2).max() and worst["miou.road.union"] > 0
    assert [row["fid.features"] is None for row in rows] == [False, True] * 3


def test_scores_file_returns_the_scores_of_images_to_the_bit(path):
    images = load_scores(path)
    depth = rows_of("depth", 2)[[1, 0, 2]]
    assert torch.equal(images.scores["si_depth"], metrics.factory("si_depth").combine(depth))
    assert images.scores["si_depth"].dtype == torch.float32
    assert torch.equal(images.scores["miou"], rows_of("miou", 2, 2, 2).sum(1)[[1, 0, 2]])
    assert torch.equal(images.scores["lpips-scenes"], torch.tensor([0.25, 0.5, 0.75]))
    assert torch.equal(images.scores["fid"], rows_of("fid", 3, 5)[[1, 0, 2]])
    assert torch.equal(images.scores["tifa"], rows_of("tifa", 2)[[1, 0, 2]])


def test_scores_of_a_metric_of_distributions_are_those_of_all_samples(tmp_path):
    class Colours(Metric):
        compares_distributions = True

        def per_sample(self, batch, generated):
            return generated.mean((3, 4))

    metric, rows = Colours(torch.nn.Identity()), rows_of("colours", 2, 3)
    samples = describe_samples(metric, rows)
    images = PerImageScores(IDS, CAPTIONS, {"colours": metric.combine(samples.rows)}, {"colours": samples}, SEEDS)
    save_scores(tmp_path / "s.parquet", {"test": images})
    assert torch.equal(load_scores(tmp_path / "s.parquet").scores["colours"], rows.mean(1)[[1, 0, 2]])


def test_scores_file_of_a_later_release_is_refused(path):
    table = pq.read_table(path)
    description = json.dumps({"version": 3, "metrics": {}}).encode()
    pq.write_table(table.replace_schema_metadata({b"lumen": description}), path)
    for read in (load_scores, lambda file: load_values(file, "miou")):
        with pytest.raises(BadFile, match="later release"):
            read(path)


@pytest.mark.parametrize("file", OLD_FILES, ids=lambda path: path.parts[-6])
def test_scores_file_of_an_earlier_release_is_read(file):
    table = pq.read_table(file, filters=[("kind", "=", "test")])
    images = load_scores(file)
    assert images.id == table["id"].to_pylist() and images.scores.keys() == set(table.column_names[3:])
    expected = table["lpips-scenes"].to_pylist()
    assert images.scores["lpips-scenes"].tolist() == expected
    assert [value.value for value in load_values(file, "lpips")] == expected


def test_values_of_samples_are_those_that_are_defined(path):
    values = load_values(path, "si_depth")
    assert [(value.image, value.sample) for value in values] == [(i, k) for i in "abc" for k in range(2)]
    assert [value.value for value in values] == rows_of("depth", 2)[[1, 0, 2]].flatten().tolist()
    assert [value.value for value in load_values(path, "lpips")] == [0.25, 0.25, 0.5, 0.5, 0.75, 0.75]
    for metric in ("fid", "tifa", "depth"):
        with pytest.raises(Mistake, match="lpips-scenes, miou, si_depth"):
            load_values(path, metric)


def test_values_of_images_stand_at_their_first_sample(tmp_path):
    scores = torch.tensor([0.5, float("nan")])  # which is no value
    images = PerImageScores(["a", "b"], ["", ""], {"brightness": scores}, seed=SEEDS[:2])
    save_scores(tmp_path / "samples.parquet", {"test": images})
    assert load_values(tmp_path / "samples.parquet", "brightness") == [("a", 0, "", 0.5)]


def test_partial_scores_of_an_incomplete_file_are_none(tmp_path):
    partial, rows = PartialScores(tmp_path), torch.rand(3, 2).T
    assert partial.load(["a", "b"]) is None
    partial.save(["a", "b"], {"miou": rows})
    assert torch.equal(partial.load(["a", "b"])["miou"], rows) and partial.load(["b", "a"]) is None
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:-1])
    assert partial.load(["a", "b"]) is None
