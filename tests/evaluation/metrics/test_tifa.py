"""TIFA by upstream's rule, the questions about each caption, and files of questions."""

import json
from collections import defaultdict
from statistics import mean

import numpy as np
import pytest
import torch

from lumen.config.experiment import load
from lumen.core.errors import BadConfig, DatasetMissing
from lumen.core.interfaces import Batch, Optimization, Task
from lumen.core.registry import datamodules, metrics
from lumen.data.datamodule import DataModule
from lumen.data.questions import KINDS, Question
from lumen.data.source import LoaderConfig
from lumen.runs.build import build_metrics
from lumen.runs.data import build_data

# The sample that tifascore publishes with its result: kind of question, answer, choice of the VQA model.
SURFER = [
    *[("animal/human", "yes", "yes"), ("animal/human", "surfer", "surfer"), ("object", "yes", "yes")],
    *[
        ("location", "yes", "yes"),
        ("location", "beach", "beach"),
        ("activity", "yes", "yes"),
        ("activity", "yes", "yes"),
    ],
    *[("color", "yes", "yes"), ("color", "gray", "gray"), ("color", "yes", "yes"), ("color", "white", "white")],
]
CATS = [
    *[("animal/human", "yes", "yes"), ("animal/human", "yes", "no"), ("object", "yes", "yes")],
    *[("object", "grass", "grass"), ("activity", "yes", "yes")],
    *[("counting", "3", "3"), ("counting", "yes", "no"), ("counting", "2", "1")],
]
PUBLISHED = {"animal or human": 0.75, "object": 1, "location": 1, "activity": 1, "color": 1, "counting": 1 / 3}


def fake_tifa(questions, answers, monkeypatch):
    """TIFA with these questions about each image, and a VQA model that gives these answers about each image."""
    metric = metrics.build("tifa", vqa="scenes", questions=lambda batch: [questions[int(i)] for i in batch.id])

    class FakeVQA(torch.nn.Module):
        def answer(self, images, groups):
            # Images without questions are left out.
            assert len(images) == len(groups) and all(groups)
            return [answers[questions.index(group)] for group in groups]

    monkeypatch.setattr(metric, "_frozen", (FakeVQA(),))
    return metric


def score(metric, images, samples=2):
    ids = [str(i) for i in range(images)]
    metric.reset()
    metric.update(Batch(torch.zeros(images, 3, 8, 8), [""] * images, ids), torch.zeros(images, samples, 3, 8, 8))
    return metric.rows[0]


def questions(table, image=0):
    return tuple(Question(f"{image} {n}", (answer, "?"), answer, kind) for n, (kind, answer, _) in enumerate(table))


def breakdown(metric, scores):
    return {kind: float(share) for kind, share in metric.breakdown(scores).items()}


def test_tifa_of_the_published_sample_has_the_published_result(monkeypatch):
    groups = [questions(SURFER), (), questions(CATS, 1)]
    metric = fake_tifa(groups, [[choice for *_, choice in table] for table in (SURFER, [], CATS)], monkeypatch)
    scores = score(metric, 3)
    assert metric.aggregate(scores).item() == pytest.approx(0.8125)
    assert breakdown(metric, scores) == pytest.approx(PUBLISHED)


def test_tifa_equals_upstreams_rule_in_plain_python(monkeypatch):
    rng = np.random.default_rng(0)
    tables = [
        [(str(rng.choice(KINDS)), "a", str(rng.choice(["a", "b"]))) for _ in range(rng.integers(0, 9))]
        for _ in range(12)
    ]
    groups = [questions(table, i) for i, table in enumerate(tables)]
    metric = fake_tifa(groups, [[choice for *_, choice in table] for table in tables], monkeypatch)
    scores = score(metric, 12, samples=3)
    by_image, by_kind = defaultdict(list), defaultdict(list)
    for image, table in enumerate(tables):
        for kind, answer, choice in table:
            by_image[image].append(int(choice == answer))
            by_kind[kind.replace("/", " or ")].append(int(choice == answer))
    assert metric.aggregate(scores).item() == pytest.approx(mean(mean(correct) for correct in by_image.values()))
    assert breakdown(metric, scores) == pytest.approx({kind: mean(correct) for kind, correct in by_kind.items()})


def test_tifa_interval_resamples_images_with_questions_alone(monkeypatch):
    groups = [questions(SURFER), questions(CATS, 1)] + [()] * 38
    metric = fake_tifa(groups, [["?"] * 11, ["yes"] * 8] + [[]] * 38, monkeypatch)
    # A resample of all 40 images often lacks both that have questions.
    assert metric.interval(score(metric, 40)) == pytest.approx((0, 5 / 8))


def entry(caption, question="is it?", choices=("yes", "no"), answer="yes", **more):
    return {"caption": caption, "question": question, "choices": list(choices), "answer": answer} | more


@pytest.fixture
def coco(tmp_path):
    """Factory of the tiny COCO-Stuff data module, all three held-out images evaluated, with a file of questions."""
    root = tmp_path / "coco"
    datamodules.factory("coco_stuff").fake(root)

    def build(*items):
        path = tmp_path / "questions.json"
        path.write_text(json.dumps(items))
        loader_config = LoaderConfig(size=32, batch_size=3, eval_images=3, questions=str(path))
        return DataModule(datamodules.build("coco_stuff", root=str(root), loader_config=loader_config))

    return build


def test_questions_choose_the_caption_of_an_image(coco):
    data = coco(
        entry(" a second  picture of things and stuff\n", id="coco_1", coco_val_id="139", element_type="object"),
        entry("a second picture of things and stuff", "what?", ["things", "air"], "things", element_type="strange"),
        entry("a second picture of things and stuff", "is it?", answer="no"),
        entry("a caption of no image"),
    )
    (batch,) = data.test_dataloader()
    assert set(batch.caption) == {"a second picture of things and stuff"} and data.source.num_questioned() == 3
    assert data.source.questions(batch)[0] == (
        Question("is it?", ("yes", "no"), "yes", "object"),
        Question("what?", ("things", "air"), "things", "other"),
    )
    first, second = (module.dataset("train")[0, 3]["caption"] for module in (coco(), data))
    assert first == second  # captions of training do not change


def test_questions_about_no_image_change_nothing_and_tifa_is_refused(coco):
    data = coco(entry("a caption of no image"))
    (batch,) = data.test_dataloader()
    assert set(batch.caption) == {"a first picture of things and stuff"}
    assert data.source.questions(batch) == [()] * 3 and data.source.num_questioned() == 0
    config = load("coco_stuff", [f"data.root={data.source.root}", "metrics=[tifa]", "metrics.tifa.vqa=scenes"])
    with pytest.raises(BadConfig, match="tifa.*measure.questions=FILE"):
        build_metrics(config, data, Task(Optimization()))


def test_questions_about_a_part_of_the_images_warn(tmp_path, coco, recwarn):
    data = coco(entry("with questions"))
    records = enumerate(data.source.records("val"))
    captions = {record.id: ["without" if n else "with questions"] for n, record in records}
    captions |= {record.id: "train" for record in data.source.records("train")}
    (tmp_path / "captions.json").write_text(json.dumps(captions))
    overrides = [f"data.root={data.source.root}", f"data.captions={tmp_path}/captions.json", "metrics=[tifa]"]
    overrides += ["metrics.tifa.vqa=scenes", f"measure.questions={tmp_path}/questions.json"]
    config = load("coco_stuff", overrides)
    metric = build_metrics(config, build_data(config), Task(Optimization()))["tifa"]
    assert any("1 of 3" in str(warning.message) for warning in recwarn)
    (batch,) = build_data(config).test_dataloader()
    scores = metric.per_image(batch, batch.image[:, None])
    assert scores.sum((1, 2)).bool().tolist() == [True, False, False] and 0 <= metric.aggregate(scores) <= 1


def test_questions_file_must_exist_and_suit_the_data_set(tmp_path):
    with pytest.raises(DatasetMissing, match="none.json.*`lumen questions`"):
        build_data(load("coco_stuff", [f"data.root={tmp_path}", f"measure.questions={tmp_path}/none.json"]))
    with pytest.raises(BadConfig, match="questions"):
        build_data(load("scenes", ["measure.questions=any.json"]))
