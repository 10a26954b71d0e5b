"""Every metric prefers the truth, adds up over batches, and agrees with its definition written out."""

import numpy as np
import pytest
import torch
from torchmetrics.classification import MulticlassJaccardIndex

from lumen.config.experiment import load
from lumen.core.errors import BadConfig, WeightsMissing
from lumen.core.interfaces import IGNORE, Batch, Metric
from lumen.core.registry import datamodules, metrics
from lumen.data.datamodule import Loading
from lumen.runs.build import build_data, build_metrics
from lumen.scenes.world import CLASSES


@pytest.fixture(scope="module")
def scenes():
    """Eight held-out scenes."""
    data = datamodules.build("scenes", loading=Loading(size=64, batch=8, measured=8))
    return next(iter(data.test_dataloader()))


class Judges(dict):
    """Every metric with the small evaluator of the scenes, built when it is first asked for."""

    def __missing__(self, name):
        config = load("scenes", [f"metrics=[{name}]", "measure.images=256"])  # enough for every metric
        self[name] = build_metrics(config, build_data(config))[name]
        return self[name]


@pytest.fixture(scope="module")
def judges():
    return Judges()


def noise(like):
    return torch.rand(like.shape, generator=torch.Generator().manual_seed(0)) * 2 - 1


def judged(metric, batch, *generated):
    metric.reset()
    metric.update(batch, torch.stack(generated, 1))
    return float(metric.compute())


@pytest.mark.parametrize("name", metrics.names())
def test_every_metric_prefers_what_it_should(name, judges, scenes):
    metric, image = judges[name], scenes.image
    # of a measure of diversity the better samples are those that differ
    good = (image, image.flip(0)) if metric.samples_per_image > 1 else (image,)
    bad = (image, image) if metric.samples_per_image > 1 else (noise(image),)
    sign = 1 if metric.higher_is_better else -1
    assert sign * judged(metric, scenes, *good) > sign * judged(metric, scenes, *bad)


@pytest.mark.parametrize("name", metrics.names())
def test_a_figure_is_the_same_in_one_batch_or_two(name, judges, scenes):
    metric, generated = judges[name], torch.stack([scenes.image, noise(scenes.image)], 1)
    metric.reset()
    metric.update(scenes, generated)
    whole, rows = metric.compute(), metric.rows[0]
    metric.reset()
    for part in (slice(0, 3), slice(3, 8)):
        some = Batch(scenes.image[part], scenes.caption[part], scenes.id[part], scenes.mask[part])
        some.extra = {key: values[part] for key, values in scenes.extra.items()}
        metric.update(some, generated[part])
    assert torch.allclose(metric.compute(), whole, rtol=1e-5)
    low, high = metric.interval(rows)
    assert low <= whole <= high


@pytest.mark.parametrize("name", metrics.names())
def test_no_evaluator_is_part_of_what_is_trained_saved_or_averaged(name, judges):
    assert not list(judges[name].parameters()) and not judges[name].state_dict()


def test_an_interval_is_that_of_the_mean():
    class Mean(Metric):
        higher_is_better = True

        @staticmethod
        def aggregate(rows):
            return rows.double().mean()

    rows = torch.randn(400, generator=torch.Generator().manual_seed(0))
    low, high = Mean(torch.nn.Identity()).interval(rows)
    error = rows.std().item() / 400**0.5
    assert low == pytest.approx(rows.mean().item() - 1.96 * error, abs=0.2 * error)
    assert high == pytest.approx(rows.mean().item() + 1.96 * error, abs=0.2 * error)


def test_mean_iou_is_the_dataset_level_definition(judges, scenes):
    metric = judges["miou"]
    mask = scenes.mask.clone()
    mask[:, :5] = IGNORE
    scenes = Batch(scenes.image, scenes.caption, scenes.id, mask)
    generated = torch.stack([scenes.image, scenes.image.roll(9, -1)], 1)
    found = torch.stack([metric.found(generated[:, k], (64, 64)) for k in range(2)], 1)
    truth = scenes.mask[:, None].expand_as(found)
    # cityscapesScripts: tp / (tp + fp + fn) of one confusion matrix, unlabelled pixels left out, absent classes too
    kept = (truth != IGNORE).numpy()
    matrix = np.bincount(truth.numpy()[kept] * 11 + found.numpy()[kept], minlength=121).reshape(11, 11)
    right, union = np.diag(matrix), matrix.sum(0) + matrix.sum(1) - np.diag(matrix)
    expected = (right[union > 0] / union[union > 0]).mean()
    assert judged(metric, scenes, *generated.unbind(1)) == pytest.approx(expected, abs=1e-9)
    theirs = MulticlassJaccardIndex(11, ignore_index=IGNORE)
    assert judged(metric, scenes, *generated.unbind(1)) == pytest.approx(float(theirs(found, truth)), abs=1e-6)


def test_a_segmenter_must_know_the_classes():
    with pytest.raises(BadConfig, match="but not 1 of the data set's 12 classes, such as 'zebra'"):
        metrics.build("miou", segmenter="scenes", classes=(*CLASSES, "zebra"))


def test_depth_error_is_eigens_and_knows_no_scale(judges, scenes, monkeypatch):
    metric = judges["si_depth"]
    one, other = metric.seen(scenes.image), metric.seen(noise(scenes.image))
    gap = (other.log() - one.log()).flatten(1).double().numpy()
    n = gap.shape[1]
    expected = 100 * np.sqrt((gap**2).sum(1) / n - gap.sum(1) ** 2 / n**2).mean()
    assert judged(metric, scenes, noise(scenes.image)) == pytest.approx(expected, rel=1e-5)
    metric.reference_cache.clear()
    monkeypatch.setattr(metric, "seen", lambda images: one if torch.equal(images, scenes.image) else 3 * one)
    assert judged(metric, scenes, noise(scenes.image)) == pytest.approx(0, abs=1e-4)


def test_depth_that_touches_zero_is_judged_image_by_image(judges, scenes, monkeypatch):
    metric = judges["si_depth"]
    depth = torch.rand(8, 64, 64, generator=torch.Generator().manual_seed(0)) * torch.arange(1, 9)[:, None, None]
    depth[:, :8] = 0
    answers = lambda output, sizes: [{"predicted_depth": each} for each in output]  # noqa: E731
    monkeypatch.setattr(metric.evaluator.processor, "post_process_depth_estimation", answers)
    monkeypatch.setattr(metric, "_frozen", (metric.evaluator,))
    monkeypatch.setattr(metric.evaluator, "forward", lambda images: depth[: len(images)])
    whole, alone = metric.seen(scenes.image), metric.seen(scenes.image[:1])
    assert torch.equal(whole[:1], alone) and (whole > 0).all()


def test_tifa_is_the_share_of_right_answers(judges, scenes, monkeypatch):
    metric = judges["tifa"]
    asked = metric.questions(scenes)

    class First(torch.nn.Module):
        """Answers the first n questions of image n rightly."""

        def answer(self, image, questions):
            return [[q.answer if k < i else "?" for k, q in enumerate(some)] for i, some in enumerate(questions)]

    monkeypatch.setattr(metric, "_frozen", (First(),))
    expected = np.mean([min(i, len(some)) / len(some) for i, some in enumerate(asked)])
    assert judged(metric, scenes, scenes.image, scenes.image) == pytest.approx(expected)


def test_tifa_needs_something_to_ask():
    with pytest.raises(BadConfig, match="leave tifa out"):
        metrics.build("tifa", vqa="scenes", questions=None)


@pytest.mark.parametrize("name", metrics.names())
def test_an_untrained_evaluator_is_refused(name):
    key = next(k for k, v in load("scenes", [f"metrics=[{name}]"]).metrics[name].items() if v == "scenes")
    config = load("scenes", [f"metrics=[{name}]", f"metrics.{name}.{key}=none"])
    with pytest.raises(WeightsMissing, match="can judge nothing"):
        build_metrics(config, build_data(config))
