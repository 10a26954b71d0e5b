"""Promises of every metric, and mIoU, SI depth and TIFA against their definitions."""

import numpy as np
import pytest
import torch
from torchmetrics.classification import MulticlassJaccardIndex

from lumen.config.experiment import load
from lumen.core.boxes import NO_BOX, boxes_to_array
from lumen.core.errors import BadConfig, WeightsMissing
from lumen.core.interfaces import IGNORE, Batch, Metric, Optimization, Task
from lumen.core.registry import datamodules, metrics
from lumen.data.datamodule import DataModule
from lumen.data.domains import DomainGroups
from lumen.data.source import LoaderConfig
from lumen.runs.build import build_metrics
from lumen.runs.data import build_data
from lumen.scenes import CLASSES
from lumen.scenes.objects import KINDS


@pytest.fixture(scope="module")
def scenes():
    """Eight held-out scenes."""
    data = DataModule(datamodules.build("scenes", loader_config=LoaderConfig(size=64, batch_size=8, eval_images=8)))
    return next(iter(data.test_dataloader()))


class LazyMetrics(dict):
    """Metrics by name, with the small evaluator of the scenes, each built at its first use."""

    def __missing__(self, name):
        config = load("scenes", [f"metrics=[{name}]", "measure.images=256"])  # enough for every metric
        task = Task(Optimization())
        task.output_kind = metrics.literal(name, "output_kind", "images")
        self[name] = build_metrics(config, build_data(config), task)[name]
        return self[name]


@pytest.fixture(scope="module")
def built():
    return LazyMetrics()


def noise(like):
    return torch.rand(like.shape, generator=torch.Generator().manual_seed(0)) * 2 - 1


def reference(metric, batch):
    """Return the outputs that a metric takes for perfect."""
    if metric.output_kind == "boxes":
        boxes = [boxes_to_array(content["objects"], KINDS) for content in batch.extra["boxes"]]
        tensors = [torch.from_numpy(array).float() for array in boxes]
        return torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True, padding_value=NO_BOX)
    if metric.output_kind == "edits":
        return recolour_sky(batch)
    return batch.image if metric.output_kind == "images" else torch.stack(batch.extra[metric.output_kind])


def recolour_sky(batch):
    """Return edits of the sky alone: it is as it was, then light blue, grey, orange and nearly black."""
    sky = (batch.mask == 0)[:, None].float()
    colours = torch.tensor([[0.2, 0.5, 1.0], [0.7, 0.7, 0.7], [1.0, 0.3, -0.4], [-0.95, -0.95, -0.8]])
    edits = [batch.image, *(torch.lerp(batch.image, colour[:, None, None], sky) for colour in colours)]
    return torch.stack([torch.cat([image, sky], 1) for image in edits], 1)


def value(metric, batch, *samples):
    metric.reset()
    metric.update(batch, torch.stack(samples, 1))
    return float(metric.compute())


@pytest.mark.parametrize("name", metrics.names())
def test_metric_prefers_the_reference_to_noise(name, built, scenes):
    metric = built[name]
    output = reference(metric, scenes)
    good, bad = (output,), (noise(output),)
    if metric.samples_per_image > 1:  # a metric of diversity prefers samples that differ, one of consistency does not
        good, bad = [(output, output.flip(0)), (output, output)][:: 1 if metric.higher_is_better else -1]
    sign = 1 if metric.higher_is_better else -1
    assert sign * value(metric, scenes, *good) > sign * value(metric, scenes, *bad)


@pytest.mark.parametrize("name", metrics.names())
def test_metric_value_is_independent_of_batch_size(name, built, scenes):
    metric, output = built[name], reference(built[name], scenes)
    generated = torch.stack([output, noise(output)], 1)
    metric.reset()
    metric.update(scenes, generated)
    whole, scores = metric.compute(), metric.rows[0]
    metric.reset()
    for part in (slice(0, 3), slice(3, 8)):
        batch = Batch(scenes.image[part], scenes.caption[part], scenes.id[part], scenes.mask[part])
        batch.extra = {key: values[part] for key, values in scenes.extra.items()}
        metric.update(batch, generated[part])
    assert torch.allclose(metric.compute(), whole, rtol=1e-5)
    low, high = metric.interval(scores)
    assert low <= whole <= high


@pytest.mark.parametrize("name", metrics.names())
def test_metric_registers_no_parameters_of_its_evaluator(name, built):
    assert not list(built[name].parameters()) and not built[name].state_dict()


@pytest.mark.parametrize("name", [n for n in metrics.names() if metrics.literal(n, "output_kind") is None])
def test_metric_refuses_an_untrained_evaluator(name):
    """Metrics of outputs that are no images have no evaluator."""
    key = next(k for k, v in load("scenes", [f"metrics=[{name}]"]).metrics[name].items() if v == "scenes")
    config = load("scenes", [f"metrics=[{name}]", f"metrics.{name}.{key}=none"])
    with pytest.raises(WeightsMissing, match="untrained"):
        build_metrics(config, build_data(config), Task(Optimization()))


def test_metric_interval_equals_that_of_the_mean():
    class Mean(Metric):
        higher_is_better = True

        @staticmethod
        def aggregate(scores):
            return scores.double().mean()

    scores = torch.randn(400, generator=torch.Generator().manual_seed(0))
    low, high = Mean(torch.nn.Identity()).interval(scores)
    error = scores.std().item() / 400**0.5
    assert low == pytest.approx(scores.mean().item() - 1.96 * error, abs=0.2 * error)
    assert high == pytest.approx(scores.mean().item() + 1.96 * error, abs=0.2 * error)


def test_miou_equals_the_dataset_level_definition(built, scenes):
    metric = built["miou"]
    mask = scenes.mask.clone()
    mask[:, :5] = IGNORE
    batch = Batch(scenes.image, scenes.caption, scenes.id, mask)
    samples = scenes.image, scenes.image.roll(9, -1)
    prediction = torch.stack([metric.predict(images, (64, 64)) for images in samples], 1)
    target = mask[:, None].expand_as(prediction)
    # cityscapesScripts: tp / (tp + fp + fn) of one confusion matrix, without unlabelled pixels and absent classes.
    labelled = (target != IGNORE).numpy()
    pairs = target.numpy()[labelled] * 11 + prediction.numpy()[labelled]
    matrix = np.bincount(pairs, minlength=121).reshape(11, 11)
    intersection, union = np.diag(matrix), matrix.sum(0) + matrix.sum(1) - np.diag(matrix)
    expected = (intersection[union > 0] / union[union > 0]).mean()
    assert value(metric, batch, *samples) == pytest.approx(expected, abs=1e-9)
    reference = MulticlassJaccardIndex(11, ignore_index=IGNORE)
    assert value(metric, batch, *samples) == pytest.approx(float(reference(prediction, target)), abs=1e-6)


def test_si_depth_equals_eigens_equation_and_is_invariant_to_scale(built, scenes, monkeypatch):
    metric = built["si_depth"]
    reference, other = metric.positive_depth(scenes.image), metric.positive_depth(noise(scenes.image))
    gap = (other.log() - reference.log()).flatten(1).double().numpy()
    n = gap.shape[1]
    expected = 100 * np.sqrt((gap**2).sum(1) / n - gap.sum(1) ** 2 / n**2).mean()
    assert value(metric, scenes, noise(scenes.image)) == pytest.approx(expected, rel=1e-5)
    metric.reference_cache.clear()
    scaled = lambda images: reference if torch.equal(images, scenes.image) else 3 * reference  # noqa: E731
    monkeypatch.setattr(metric, "positive_depth", scaled)
    assert value(metric, scenes, noise(scenes.image)) == pytest.approx(0, abs=1e-4)


def test_si_depth_raises_zero_depths_image_by_image(built, scenes, monkeypatch):
    metric = built["si_depth"]
    depth = torch.rand(8, 64, 64, generator=torch.Generator().manual_seed(0)) * torch.arange(1, 9)[:, None, None]
    depth[:, :8] = 0
    post_process = lambda output, sizes: [{"predicted_depth": plane} for plane in output]  # noqa: E731
    monkeypatch.setattr(metric.evaluator.processor, "post_process_depth_estimation", post_process)
    monkeypatch.setattr(metric.evaluator, "forward", lambda images: depth[: len(images)])
    whole, alone = metric.positive_depth(scenes.image), metric.positive_depth(scenes.image[:1])
    assert torch.equal(whole[:1], alone) and (whole > 0).all()


def test_tifa_is_the_share_of_correct_answers(built, scenes, monkeypatch):
    metric = built["tifa"]
    questions = metric.questions(scenes)

    class FirstCorrect(torch.nn.Module):
        """Answers the first i questions of image i correctly."""

        def answer(self, image, questions):
            return [[q.answer if k < i else "?" for k, q in enumerate(group)] for i, group in enumerate(questions)]

    monkeypatch.setattr(metric, "_frozen", (FirstCorrect(),))
    expected = np.mean([min(i, len(group)) / len(group) for i, group in enumerate(questions)])
    assert value(metric, scenes, scenes.image, scenes.image) == pytest.approx(expected)


def test_tifa_needs_questions():
    with pytest.raises(BadConfig, match="measure.questions=FILE"):
        metrics.build("tifa", vqa="scenes", questions=None)


def test_miou_of_predicted_labels_equals_that_of_a_segmenter_that_predicts_them(built, scenes):
    by_segmenter, by_labels = built["miou"], metrics.build("miou", segmenter=None, classes=CLASSES)
    labels = by_segmenter.predict(scenes.image, (64, 64))
    assert by_labels.output_kind == "labels" and by_labels.key == "miou"
    assert torch.equal(by_labels.score(scenes, labels[:, None]), by_segmenter.score(scenes, scenes.image[:, None]))


def test_miou_of_a_domain_is_that_of_its_images_and_the_mean_is_plain(scenes):
    """Unequal numbers of images make the plain mean another number than the mIoU of all images."""
    labels = torch.where(noise(scenes.mask.float()) > 0, scenes.mask, scenes.mask.roll(3, 0))[:, None]
    batch = Batch(scenes.image, scenes.caption, scenes.id, scenes.mask, {"domain": [*"aaaaabbc"]})
    group = {"": (("a",),), "b": (("b",),), "bc": (("b", "c"),), "mean": (("a",), ("b",), ("c",))}
    built = {title: metrics.build("miou", segmenter=None, classes=CLASSES, domains=DomainGroups(title, groups))
             for title, groups in group.items()}  # fmt: skip
    assert [metric.key for metric in built.values()] == ["miou", "miou-b", "miou-bc", "miou-mean"]
    plain = metrics.build("miou", segmenter=None, classes=CLASSES)
    subset = lambda part: plain.aggregate(plain.score(batch, labels)[part])  # noqa: E731
    values = {title: metric.aggregate(metric.score(batch, labels)) for title, metric in built.items()}
    expected = {"": subset(slice(5)), "b": subset(slice(5, 7)), "bc": subset(slice(5, 8))}
    expected["mean"] = (expected[""] + expected["b"] + subset(slice(7, 8))) / 3
    assert values == expected and abs(float(values["mean"] - subset(slice(8)))) > 1e-3
    scores = built["mean"].score_samples(batch, labels)
    assert len(built["mean"].columns(scores.shape[2:])) == scores[0, 0].numel() and scores.shape[2] == 3
    parts = built["b"].breakdown(built["b"].score(batch, labels))
    assert parts == plain.breakdown(plain.score(batch, labels)[5:7]) and not built["mean"].breakdown(scores[:, 0])


def test_metrics_of_an_unseen_data_set_are_one_for_each_domain():
    config = load("scenes", ["measure.images=24"])
    config.metrics = {"miou": {"segmenter": None}}
    loader_config = LoaderConfig(size=32, eval_images=24)
    build = lambda *skies: datamodules.build("scenes", skies=[*skies], loader_config=loader_config)  # noqa: E731
    task = Task(Optimization())
    task.output_kind = ("labels", "disparity")
    names = build_metrics(config, DataModule(build("clear"), build("night", "fog")), task)
    assert [*names] == [metric.key for metric in names.values()] == ["miou", "miou-fog", "miou-night", "miou-mean"]
    task.output_kind = "boxes"
    with pytest.raises(BadConfig, match="miou scores labels.* predicts boxes; choose from: mds"):
        build_metrics(config, DataModule(build("clear")), task)


@pytest.mark.parametrize(("name", "kind"), [("mds", "boxes"), ("disparity_rmse", "disparity")])
def test_metric_of_annotations_that_are_not_there_is_refused(name, kind, tmp_path):
    datamodules.factory("cityscapes").fake(tmp_path)
    config = load("cityscapes", [f"data.root={tmp_path}", f"metrics=[{name}]"])
    task = Task(Optimization())
    task.output_kind = kind
    assert build_metrics(config, build_data(config), task)[name].key == name
    for path in tmp_path.rglob("*_gtBbox3d.json" if name == "mds" else "*_disparity.png"):
        path.unlink()
    with pytest.raises(BadConfig, match=f"{name} compares {kind}, and cityscapes has none of its val split"):
        build_metrics(config, build_data(config), task)


def test_metric_without_a_value_on_any_resample_has_no_interval():
    """Such as the mean over as many domains as there are images: a resample seldom holds them all."""

    class MeanOfDomains(Metric):
        higher_is_better = True
        aggregate = staticmethod(lambda scores: scores.nanmean(0).mean())

    domains = torch.full((40, 40), torch.nan).fill_diagonal_(1.0)
    assert MeanOfDomains.aggregate(domains) == 1 and MeanOfDomains.interval(domains) is None
    assert MeanOfDomains.interval(domains[:, :1].nan_to_num(2.0)) is not None
