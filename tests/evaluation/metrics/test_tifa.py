"""TIFA's figures by upstream's rule, what is asked about which caption, and files of questions."""

import json
from collections import defaultdict
from statistics import mean

import numpy as np
import pytest
import torch

from lumen.config.experiment import load
from lumen.core.errors import BadConfig, BadSample, DatasetMissing
from lumen.core.interfaces import Batch
from lumen.core.registry import datamodules, metrics
from lumen.data.datamodule import Loading
from lumen.data.questions import KINDS, Question, by_caption, entries
from lumen.runs.build import build_data, build_metrics

# The sample that tifascore publishes with its result: what the question is about, the answer, what the VQA model chose.
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


def tifa(asked, chosen, monkeypatch):
    """TIFA that is asked these questions, image by image, and whose judge chooses so, image by image, always."""
    metric = metrics.build("tifa", vqa="scenes", questions=lambda batch: [asked[int(i)] for i in batch.id])

    class Judge(torch.nn.Module):
        def answer(self, images, questions):
            # Images that nothing is asked about are not looked at.
            assert len(images) == len(questions) and all(questions)
            return [chosen[asked.index(some)] for some in questions]

    monkeypatch.setattr(metric, "_frozen", (Judge(),))
    return metric


def judged(metric, images, samples=2):
    ids = [str(i) for i in range(images)]
    metric.reset()
    metric.update(Batch(torch.zeros(images, 3, 8, 8), [""] * images, ids), torch.zeros(images, samples, 3, 8, 8))
    return metric.rows[0]


def questions(table, image=0):
    return tuple(Question(f"{image} {n}", (answer, "?"), answer, kind) for n, (kind, answer, _) in enumerate(table))


def test_the_published_sample_has_the_published_result(monkeypatch):
    asked = [questions(SURFER), (), questions(CATS, 1)]
    chosen = [[said for *_, said in SURFER], [], [said for *_, said in CATS]]
    metric = tifa(asked, chosen, monkeypatch)
    rows = judged(metric, 3)
    assert metric.aggregate(rows).item() == pytest.approx(0.8125)
    assert {kind: float(part) for kind, part in metric.breakdown(rows).items()} == pytest.approx(PUBLISHED)


def test_figures_are_upstreams_rule_written_out(monkeypatch):
    rng = np.random.default_rng(0)
    tables = [
        [(str(rng.choice(KINDS)), "a", str(rng.choice(["a", "b"]))) for _ in range(rng.integers(0, 9))]
        for _ in range(12)
    ]
    metric = tifa([questions(t, i) for i, t in enumerate(tables)], [[s for *_, s in t] for t in tables], monkeypatch)
    rows = judged(metric, 12, samples=3)
    scores, kinds = defaultdict(list), defaultdict(list)
    for image, table in enumerate(tables):
        for kind, answer, said in table:
            scores[image].append(int(said == answer))
            kinds[kind.replace("/", " or ")].append(int(said == answer))
    assert metric.aggregate(rows).item() == pytest.approx(mean(mean(some) for some in scores.values()))
    expected = {kind: mean(some) for kind, some in kinds.items()}
    assert {kind: float(part) for kind, part in metric.breakdown(rows).items()} == pytest.approx(expected)


def test_an_interval_is_drawn_from_the_images_that_anything_is_asked_about(monkeypatch):
    asked = [questions(SURFER), questions(CATS, 1)] + [()] * 38
    metric = tifa(asked, [["?"] * 11, ["yes"] * 8] + [[]] * 38, monkeypatch)
    rows = judged(metric, 40)
    low, high = metric.interval(rows)  # of 40 images, a draw of which often misses both
    assert (low, high) == pytest.approx((0, 5 / 8))


def entry(caption, question="is it?", choices=("yes", "no"), answer="yes", **more):
    return {"caption": caption, "question": question, "choices": list(choices), "answer": answer} | more


@pytest.fixture
def coco(tmp_path):
    """Makes the tiny COCO-Stuff tree, all three held-out images measured, with a file of these questions."""
    root = tmp_path / "coco"
    datamodules.factory("coco_stuff").fake(root)

    def build(*found):
        path = tmp_path / "questions.json"
        path.write_text(json.dumps(found))
        loading = Loading(size=32, batch=3, measured=3, questions=str(path))
        return datamodules.build("coco_stuff", root=str(root), loading=loading)

    return build


def test_an_image_is_painted_with_the_caption_that_is_asked_about(coco):
    data = coco(
        entry(" a second  picture of things and stuff\n", id="coco_1", coco_val_id="139", element_type="object"),
        entry("a second picture of things and stuff", "what?", ["things", "air"], "things", element_type="strange"),
        entry("a second picture of things and stuff", "is it?", answer="no"),
        entry("a caption of no image"),
    )
    (batch,) = data.test_dataloader()
    assert set(batch.caption) == {"a second picture of things and stuff"} and data.asks() == 3
    one, other = data.questions(batch)[0]
    assert one == Question("is it?", ("yes", "no"), "yes", "object")
    assert other == Question("what?", ("things", "air"), "things", "other")
    before = coco().dataset("train")[0, 3]["caption"], data.dataset("train")[0, 3]["caption"]
    assert before[0] == before[1]  # what training draws is not changed


def test_without_a_question_nothing_is_changed_and_tifa_refused(coco):
    data = coco(entry("a caption of no image"))
    (batch,) = data.test_dataloader()
    assert set(batch.caption) == {"a first picture of things and stuff"}
    assert data.questions(batch) == [()] * 3 and data.asks() == 0
    config = load("coco_stuff", [f"data.root={data.root}", "metrics=[tifa]", "metrics.tifa.vqa=scenes"])
    with pytest.raises(BadConfig, match="no questions for tifa .* measure.questions=FILE, which `lumen questions`"):
        build_metrics(config, data)


def test_it_is_said_where_only_some_images_are_asked_about(tmp_path, coco, recwarn):
    data = coco(entry("of one"))
    captions = {record.id: ["of one" if n == 0 else "of another"] for n, record in enumerate(data.records("val"))}
    captions |= {record.id: "train" for record in data.records("train")}
    (tmp_path / "captions.json").write_text(json.dumps(captions))
    flags = [f"data.root={data.root}", f"data.captions={tmp_path}/captions.json", "metrics=[tifa]"]
    config = load("coco_stuff", [*flags, "metrics.tifa.vqa=scenes", f"measure.questions={tmp_path}/questions.json"])
    metric = build_metrics(config, build_data(config))["tifa"]
    assert "questions about 1 of 3 measured images" in str([w.message for w in recwarn])
    (batch,) = build_data(config).test_dataloader()
    rows = metric.per_image(batch, batch.image[:, None])
    assert rows.sum((1, 2)).bool().tolist() == [True, False, False] and 0 <= metric.aggregate(rows) <= 1


@pytest.mark.parametrize(
    "content", ["{}", "[1]", '[{"caption": "a", "question": "b", "answer": "c"}]', "[", '[{"caption": 1}]'],
)  # fmt: skip
def test_a_file_of_another_format_is_one_sentence(content, tmp_path):
    (tmp_path / "q.json").write_text(content)
    with pytest.raises(BadSample, match="q.json .*; (give|copy) .*[.]$"):
        entries(tmp_path / "q.json")


def test_a_file_that_is_not_there_is_one_sentence(tmp_path):
    with pytest.raises(DatasetMissing, match="`lumen questions` writes one"):
        build_data(load("coco_stuff", [f"data.root={tmp_path}", f"measure.questions={tmp_path}/none.json"]))
    with pytest.raises(BadConfig, match="come from their graphs"):
        build_data(load("scenes", ["measure.questions=any.json"]))


def test_captions_that_differ_in_spaces_are_one():
    found = by_caption([entry("a  b\n"), entry(" a b", "who?")])
    assert [q.text for q in found["a b"]] == ["is it?", "who?"] and len(found) == 1
