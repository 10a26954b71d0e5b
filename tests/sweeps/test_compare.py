"""Comparison of two runs: the paired difference of each metric, and the samples that differ most."""

import pytest
import torch
import yaml

from lumen.__main__ import main
from lumen.config.experiment import dump, load
from lumen.core.bootstrap import percentile_interval
from lumen.core.errors import Mistake, UnknownName
from lumen.core.files import write, write_json
from lumen.evaluation.keys import MetricKey
from lumen.evaluation.scores import PerImageScores, SampleScores, save_scores
from lumen.runs.directory import run_directory
from lumen.sweeps.compare import compare_runs, find_pairs
from lumen.sweeps.statistics import Bootstrap

PROTOCOL = {"hash": "a", "images": 60, "samples": 2, "sampling": {"sampler": "ddim", "steps": 5, "guidance": 2.0}}
KEY = "si_depth"


@pytest.fixture
def finish(workdir):
    """Function that writes an evaluated run, whose images have two samples each."""

    def make(name, samples, ids=None, protocol=PROTOCOL, data=None):
        config = load(
            "scenes", [f"name={name}"] if data is None else [f"name={name}", "data=coco_stuff", "data.root=x"]
        )
        run = run_directory(config)
        write(run / "config.yaml", yaml.safe_dump(dump(config)))
        scores = samples.mean(1)
        ids = ids or [f"{i:03d}" for i in range(len(scores))]
        by_sample = {KEY: SampleScores(samples, [""], samples)}
        images = PerImageScores(ids, [f"image {i}" for i in ids], {KEY: scores}, by_sample)
        save_scores(run / "samples.parquet", {"test": images})
        values = {f"test/{KEY}": float(scores.mean()), "val/loss": 0.5, "protocol": protocol}
        write_json(run / "metrics.json", values)
        if data is not None:
            facts = {"command": "", "commit": None, "versions": {}, "data": data}
            write_json(run / "provenance.json", facts | {"hardware": {"gpus": [], "cpus": 1, "machine": ""}})
        return run

    return make


@pytest.fixture
def noise():
    """Scores of 60 images, two samples each."""
    return torch.randn(60, 2, generator=torch.Generator().manual_seed(0))


def test_comparison_finds_a_difference_that_is_smaller_than_the_spread_of_images(finish, noise):
    runs = finish("a", 10 * noise), finish("b", 10 * noise + 0.1)
    metric, loss = compare_runs(runs, [])
    assert metric.is_different and metric.interval == pytest.approx((0.1, 0.1), abs=1e-4)
    assert loss.key == MetricKey("val", "loss") and loss.interval is None and loss.is_different is None
    (same,) = compare_runs((runs[0], runs[0]), [KEY])
    assert not same.is_different and same.interval == (0, 0)


def test_comparison_is_the_paired_test_of_tables(finish, noise):
    second = noise + 0.2 * torch.randn(60, 2, generator=torch.Generator().manual_seed(1))
    (difference,) = compare_runs((finish("a", noise), finish("b", second)), [KEY])
    bootstrap = Bootstrap({"a": [{KEY: noise.mean(1)}], "b": [{KEY: second.mean(1)}]})
    first, other = (bootstrap.resamples(row, difference.key) for row in "ab")
    assert difference.interval == pytest.approx(percentile_interval(other - first))
    assert difference.is_different == bootstrap.differ("a", "b", difference.key)


def test_comparison_of_few_images_shows_no_difference(finish, noise):
    (difference,) = compare_runs((finish("a", noise[:19]), finish("b", noise[:19] + 1)), [KEY])
    assert difference.is_different is None and difference.interval is not None


def test_comparison_names_the_samples_that_differ_most(finish, noise):
    other = noise.clone()
    other[7, 1] += 9
    other[7, 0] += 5
    other[3, 0] -= 7
    pairs = find_pairs((finish("a", noise), finish("b", other)), KEY, 2)
    assert [(pair.image, pair.sample) for pair in pairs] == [("007", 1), ("003", 0)]
    assert pairs[0].values[1] - pairs[0].values[0] == pytest.approx(9, abs=1e-5)


def test_comparison_of_what_is_no_pair_is_refused(finish, noise):
    first = finish("a", noise)
    steps = PROTOCOL | {"sampling": PROTOCOL["sampling"] | {"steps": 9}}
    with pytest.raises(Mistake, match=r"runs were evaluated under different protocols \(sampling.steps: 5 or 9\)"):
        compare_runs((first, finish("b", noise, protocol=steps)), [])
    with pytest.raises(Mistake, match="different images"):
        compare_runs((first, finish("c", noise, [f"x{i:03d}" for i in range(60)])), [])
    with pytest.raises(Mistake, match="runs were trained on different data"):
        compare_runs((finish("d", noise, data="0"), finish("e", noise, data="1")), [])
    with pytest.raises(UnknownName, match="no metric 'mio' in common"):
        compare_runs((first, first), ["mio"])
    (first / "metrics.json").unlink()
    with pytest.raises(UnknownName, match="has not finished"):
        compare_runs((first, first), [])


def test_compare_command_prints_a_table_and_goes_on_without_pictures(finish, noise, capsys):
    first, second = map(str, (finish("a", noise), finish("b", noise + 1)))
    assert main(["compare", first, second, "n=2"]) == 1  # there are no checkpoints
    output = capsys.readouterr().out
    assert "A is better" in output and "60 images" in output  # a larger error of the depth is worse
    assert "no sheet of these images" in output and output.count("  sample ") == 2
    assert main(["compare", first, first, "n=0"]) == 0 and "no difference" in capsys.readouterr().out
    assert main(["compare", first]) == 2 and main(["compare", first, second, "lr=1"]) == 2
    assert main(["compare", first, "nowhere"]) == 2
    capsys.readouterr()
    assert main(["compare", first, second, "n=few"]) == 2 and capsys.readouterr().out == ""  # before it compares
