"""Geometry: boxes are coded without loss and found again, labels that are missing teach nothing, flips move all."""

import shutil
from dataclasses import replace

import pytest
import torch
from torchvision.ops import generalized_box_iou_loss

from lumen.__main__ import main
from lumen.core.boxes import NO_BOX, SCORE
from lumen.core.errors import BadConfig, BadSample
from lumen.core.interfaces import Optimization
from lumen.core.registry import datamodules, metrics, tasks
from lumen.data.datamodule import DataModule
from lumen.data.loader import collate
from lumen.data.source import LoaderConfig
from lumen.features.box_cameras import read_boxes, read_cameras
from lumen.features.box_coding import SIZE, encode_boxes
from lumen.features.box_detection import detect_boxes
from lumen.features.geometry_network import GeometryMaps
from lumen.scenes.objects import KINDS
from lumen.training.geometry_losses import overlap_loss

SIDE = 64


@pytest.fixture(scope="module")
def batch():
    """Return scenes with their labels."""
    source = datamodules.build("scenes", loader_config=LoaderConfig(size=SIDE, eval_images=12))
    dataset = DataModule(source).dataset("test")
    return collate([dataset[i] for i in range(12)]).to("cpu")


@pytest.fixture(scope="module")
def task():
    torch.manual_seed(0)
    return tasks.build("geometry", size="tiny", box_classes=KINDS, optimization=Optimization())


def cameras_of(batch, side=SIDE):
    frames = batch.extra.get("frame", [None] * len(batch.id))
    return read_cameras(batch.id, batch.extra["boxes"], frames, (side, side))


def take(batch, count):
    """Return the first images of a batch."""
    extra = {kind: values[:count] for kind, values in batch.extra.items()}
    first = {name: getattr(batch, name)[:count] for name in ("image", "mask", "caption", "id")}
    return replace(batch, **first, extra=extra)


def detect_targets(targets, cameras):
    """Return what is detected where a network predicts its targets exactly, the surest cell of each box first."""
    classes = torch.arange(len(KINDS))[:, None, None]
    label = torch.where(targets.label[:, None] == classes, 30.0, -30.0)
    maps = GeometryMaps(torch.zeros(len(label), SIDE, SIDE), label, targets.centerness.logit(1e-6), targets.code)
    return detect_boxes(maps, torch.zeros(len(KINDS), SIZE.stop - SIZE.start), cameras)


@pytest.mark.parametrize("cells", [32, 16])
@pytest.mark.parametrize("is_mirrored", [False, True])
def test_boxes_that_are_coded_and_found_again_are_the_labelled_ones(cells, is_mirrored, batch):
    cameras = cameras_of(batch).mirror(torch.full((len(batch.id),), is_mirrored))
    labelled = read_boxes(batch.extra["boxes"], KINDS)
    detected = detect_targets(encode_boxes(labelled, cameras, (cells, cells)), cameras)
    metric = metrics.build("mds", distances="scenes", box_classes=KINDS)
    parts = metric.breakdown(metric.score(batch, detected[:, None]))
    # Of two boxes of a class that nearly coincide in the image one is taken for a double of the other.
    assert float(parts["AP"]) > 0.97
    assert all(float(parts[name]) == pytest.approx(1, abs=1e-5) for name in ("center_dist", "yaw", "size_similarity"))


def test_boxes_of_a_mirrored_image_are_those_of_the_mirrored_scene(batch):
    labelled, cameras = read_boxes(batch.extra["boxes"], KINDS), cameras_of(batch)
    mirrored = encode_boxes(labelled, cameras.mirror(torch.ones(len(batch.id), dtype=torch.bool)), (32, 32))
    plain = encode_boxes(labelled, cameras, (32, 32))
    sign = torch.ones(12).index_fill(0, torch.tensor([0, 6, 8]), -1)[:, None, None]
    is_box = (mirrored.label != NO_BOX) & (plain.label.flip(-1) == mirrored.label)
    assert is_box.sum() > 0.97 * (mirrored.label != NO_BOX).sum()  # a cell between two boxes may be either's
    gap = (mirrored.code - plain.code.flip(-1) * sign).abs().amax(1)
    assert (gap[is_box] < 1e-4).float().mean() > 0.97


def test_boxes_of_a_cropped_frame_are_those_of_the_original(tmp_path):
    datamodules.factory("cityscapes").fake(tmp_path)
    source = datamodules.build("cityscapes", root=str(tmp_path), loader_config=LoaderConfig(size=32))
    batch = collate([DataModule(source).dataset("train")[0, epoch] for epoch in range(8)])
    frames, cameras = batch.extra["frame"], cameras_of(batch, 32)
    labelled = read_boxes(batch.extra["boxes"], source.box_classes)
    targets = encode_boxes(labelled, cameras, (16, 16))
    detected = detect_targets(targets, cameras)[:, 0]
    is_whole = torch.tensor([frame.window[0] <= 20 and frame.window[2] >= 30 for frame in frames])  # 40 to 60 of 128 px
    assert {frame.flipped for frame in frames} == {True, False} and is_whole.sum() > 1
    assert torch.allclose(detected[is_whole][:, SCORE + 1 :], labelled[is_whole][:, 0, SCORE + 1 :], atol=1e-3)


def test_an_image_without_labels_teaches_nothing(task, batch):
    batch = take(batch, 2)
    nothing = replace(batch, extra={"boxes": [None] * 2, "disparity": [None] * 2})
    losses = task.losses(batch.image, nothing)
    assert all(float(loss.detach()) == 0 for loss in losses.values())
    sum(losses.values()).backward()
    assert all(p.grad is None or not p.grad.any() for p in task.parameters())  # NaN would be something
    outputs = task.outputs(nothing, [])
    assert outputs["disparity"].shape == (2, 1, SIDE, SIDE) and outputs["disparity"].isfinite().all()
    assert outputs["boxes"].isfinite().all()
    losses = task.losses(batch.image, batch)
    half = replace(batch, extra=batch.extra | {"disparity": [None, batch.extra["disparity"][1]]})
    assert 0 < task.losses(batch.image, half)["disparity"] != losses["disparity"]
    assert set(losses) == {"disparity", "label", "centerness", "box3d", "box2d"}


def test_geometry_learns_to_find_boxes_of_one_image(batch):
    torch.manual_seed(0)
    task = tasks.build("geometry", size="tiny", distortion=False, box_classes=KINDS, optimization=Optimization())
    few = take(batch, 1)
    optimizer = torch.optim.AdamW(task.parameters(), lr=3e-3)
    before = float(sum(task.losses(few.image, few).values()).detach())
    for _ in range(30):
        loss = sum(task.losses(few.image, few).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.8 * before


def test_preview_shows_labels_beside_predictions(task, batch):
    preview = task.preview(take(batch, 2), 1, 0)
    assert list(preview.columns) == ["image", "labelled disparity", "disparity", "labelled boxes", "boxes"]
    boxes, image = preview.columns["labelled boxes"], preview.columns["image"]
    assert boxes.shape == (2, 3, 256, 256) and (boxes[..., ::4, ::4] != image).any(1).float().mean() > 0.01


def test_a_camera_is_needed_and_so_are_classes(batch):
    content = batch.extra["boxes"][0] | {"sensor": {"fx": 1.0}}
    with pytest.raises(BadSample, match="'fy'"):
        read_cameras(["frame"], [content], [None], (SIDE, SIDE))
    with pytest.raises(BadConfig, match="task=geometry"):
        tasks.build("geometry", box_classes=(), optimization=Optimization())


@pytest.mark.parametrize(
    ("remove", "word"), [(["disparity"], "learns from disparity"), (["gtBbox3d"], "learns from boxes")]
)
def test_geometry_is_refused_where_labels_are_missing(remove, word, tmp_path, workdir, capsys):
    datamodules.factory("cityscapes").fake(tmp_path)
    for folder in remove:
        shutil.rmtree(tmp_path / folder)
    assert main(["train", "cityscapes", "task=geometry", f"data.root={tmp_path}"]) == 2
    message = capsys.readouterr().err
    assert word in message and "cityscapes" in message and not list(workdir.glob("runs/**/config.yaml"))


def test_overlap_loss_equals_that_of_torchvision():
    torch.manual_seed(0)
    corners = torch.rand(2, 50, 2, 2)
    a, b = torch.cat([corners.amin(2), corners.amax(2)], dim=-1)
    assert torch.allclose(overlap_loss(a, b), generalized_box_iou_loss(a, b), atol=1e-5)
