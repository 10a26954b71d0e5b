"""mDS against the 3D benchmark of Cityscapes, on random boxes whose scores lie in official_mds.json."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from lumen.core.bootstrap import bootstrap_resamples
from lumen.core.boxes import CENTER, MODAL, NO_BOX, array_to_boxes, boxes_to_array
from lumen.core.errors import BadConfig, BadSample
from lumen.core.interfaces import Batch
from lumen.core.registry import datamodules, metrics
from lumen.data.source import LoaderConfig
from lumen.scenes.objects import KINDS

OFFICIAL = Path(__file__).with_name("official_mds.json")
PARTS = {"AP": "AP", "center_dist": "Center_Dist", "size_similarity": "Size_Similarity", "yaw": "OS_Yaw",
         "pitch_roll": "OS_Pitch_Roll"}  # fmt: skip
KEYS = {("modal", 100): "mds", ("amodal", 100): "mds-amodal", ("modal", 20): "mds-scenes",
        ("amodal", 20): "mds-scenes-amodal"}  # fmt: skip


@pytest.fixture(scope="module")
def official():
    return json.loads(OFFICIAL.read_text())


def build(matching="modal", max_distance=100, classes=KINDS):
    distances = {100: "cityscapes", 20: "scenes"}[max_distance]
    return metrics.build("mds", matching=matching, distances=distances, box_classes=classes)


def batch_of(frames):
    """Return labelled frames, as the reader of gtBbox3d files returns them, as a batch."""
    names = [f"frame {number}" for number in range(len(frames))]
    return Batch(torch.zeros(len(frames), 3, 8, 8), names, names, extra={"boxes": [*frames]})


def pad(boxes):
    """Return the boxes of each frame as outputs of a task."""
    tensors = [torch.tensor(rows, dtype=torch.float32).view(-1, 16) for rows in boxes]
    return torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True, padding_value=NO_BOX)[:, None]


def perfect(frames):
    return [boxes_to_array(frame["objects"], KINDS).tolist() for frame in frames]


@pytest.mark.parametrize("number", range(4))
def test_mds_equals_the_official_tool(number, official):
    matching, max_distance, _ = official["scores"][number]["setting"]
    expected = official["scores"][number]["scores"]
    frames, boxes = zip(*official["frames"], strict=True)
    metric = build(matching, max_distance)
    scores = metric.score(batch_of(frames), pad(boxes))
    assert metric.key == KEYS[matching, max_distance]
    assert float(metric.aggregate(scores)) == pytest.approx(expected["mds"], abs=1e-7) and 0.2 < expected["mds"] < 0.8
    for name, value in metric.breakdown(scores).items():
        assert float(value) == pytest.approx(expected[PARTS.get(name, name)], abs=1e-7), name


@pytest.mark.long
@pytest.mark.skipif(importlib.util.find_spec("cityscapesscripts") is None, reason="cityscapesscripts is not installed")
def test_mds_is_held_against_what_the_official_tool_says_today(tmp_path):
    command = [sys.executable, OFFICIAL.with_suffix(".py"), tmp_path / "new.json"]
    subprocess.run(command, check=True)
    assert json.loads((tmp_path / "new.json").read_text()) == json.loads(OFFICIAL.read_text())


def test_mds_of_perfect_boxes_is_1_and_of_shifted_ones_as_published(official):
    frames = [frame | {"ignore": []} for frame, _ in official["frames"]]
    metric, boxes = build(), pad(perfect(frames))
    assert float(metric.aggregate(metric.score(batch_of(frames), boxes))) == pytest.approx(1, abs=1e-6)
    boxes[..., CENTER.start] += 0.3 * (boxes[..., 0] != NO_BOX)
    assert float(metric.aggregate(metric.score(batch_of(frames), boxes))) == pytest.approx(0.99925, abs=1e-6)


def test_mds_compares_the_boxes_of_scenes():
    source = datamodules.build("scenes", loader_config=LoaderConfig(size=64, eval_images=48))
    frames = [source.read(record)["boxes"] for record in source.eval_records()]
    assert source.box_classes == KINDS and {o["label"] for frame in frames for o in frame["objects"]} == {*KINDS}
    for matching in ("modal", "amodal"):
        metric = build(matching, 20)
        scores = metric.score(batch_of(frames), pad(perfect(frames)))
        parts = metric.breakdown(scores)
        # An amodal box is predicted by its 3D box, and labelled in whole pixels: small ones may differ by a third.
        assert float(parts["AP"]) == pytest.approx(1) if matching == "modal" else float(parts["AP"]) > 0.8
        assert all(float(parts[name]) == pytest.approx(1, abs=1e-6) for name in PARTS if name != "AP")


def test_mds_resamples_equal_those_of_resampled_rows(official, monkeypatch):
    frames, boxes = zip(*official["frames"], strict=True)
    metric = build("amodal", 20)
    scores = metric.score(batch_of(frames), pad(boxes))
    monkeypatch.setattr(type(metric), "num_resamples", 20)
    plain = bootstrap_resamples(metric.aggregate, scores, 20)
    assert torch.allclose(metric.bootstrap_resamples(scores), plain, atol=1e-12) and plain.std() > 0.01


def test_mds_leaves_out_images_without_a_file_and_other_classes(official):
    frames, boxes = zip(*official["frames"], strict=True)
    metric = build()
    expected = metric.aggregate(metric.score(batch_of(frames[:20]), pad(boxes[:20])))
    batch = batch_of([*frames[:20], *[None] * 12])
    assert metric.aggregate(metric.score(batch, pad(boxes))) == expected
    three = build(classes=KINDS[:3])
    parts = metric.breakdown(metric.score(batch_of(frames), pad(boxes)))
    alone = three.breakdown(three.score(batch_of(frames), pad([[b for b in rows if b[0] < 3] for rows in boxes])))
    assert {name: float(alone[name]) for name in KINDS[:3]} == {name: float(parts[name]) for name in KINDS[:3]}


def test_mds_needs_classes_and_for_amodal_boxes_a_camera(official):
    with pytest.raises(BadConfig, match=r"metrics\.mds"):
        build(classes=())
    frames, boxes = zip(*official["frames"], strict=True)
    frames = [frame | {"sensor": {"fx": 1.0}} for frame in frames]
    build("modal").score(batch_of(frames), pad(boxes))
    with pytest.raises(BadSample, match=r"frame 0 .*'fy'.*matching=modal"):
        build("amodal").score(batch_of(frames), pad(boxes))


def test_boxes_survive_the_format_of_prediction_files(official):
    _, boxes = zip(*official["frames"], strict=True)
    array = np.float32(boxes[0])
    objects = array_to_boxes(np.concatenate([array, np.full((2, 16), NO_BOX)]), KINDS)
    assert np.array_equal(boxes_to_array(objects, KINDS), array) and array[:, MODAL].std() > 0
