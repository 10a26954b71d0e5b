"""The class tables against facts written down independently of them."""

import numpy as np
import pytest

from lumen.core.interfaces import IGNORE
from lumen.data.class_names import ADE20K, COCO_STUFF

# The train id of labelIds 0-33, one after another (cityscapesScripts, helpers/labels.py).
x = IGNORE
TRAIN_IDS = [
    x,
    x,
    x,
    x,
    x,
    x,
    x,
    0,
    1,
    x,
    x,
    2,
    3,
    4,
    x,
    x,
    x,
    5,
    x,
    6,
    7,
    8,
    9,
    10,
    11,
    12,
    13,
    14,
    15,
    x,
    x,
    16,
    17,
    18,
]
# Thing ids of the 80-class detection task, 0-based: those that COCO draws.
THINGS = [*range(0, 11), *range(12, 25), 26, 27, *range(30, 44), *range(45, 65), 66, 69, *range(71, 82), *range(83, 90)]


def table(data) -> np.ndarray:
    return data.readers["mask"].keywords["table"]


def test_coco_has_80_things_and_91_stuff(build):
    data = build("coco_stuff")
    assert len(data.classes) == 171 and len(THINGS) == 80
    ids = [*THINGS, *range(91, 182)]
    assert table(data)[ids].tolist() == list(range(171))
    assert np.flatnonzero(table(data) < 0).tolist() == sorted({*range(255)} - {*ids})
    assert table(data)[255] == IGNORE
    absent = {11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90}
    assert {COCO_STUFF[id] for id in absent} == {
        "street sign", "hat", "shoe", "eye glasses", "plate", "mirror", "window", "desk", "door", "blender",
        "hair brush",
    }  # fmt: skip


def test_coco_by_switch_keeps_the_unused_ids(build):
    data = build("coco_stuff", labels=182)
    assert len(data.classes) == 182
    assert table(data)[:182].tolist() == list(range(182)) and (table(data)[182:255] == -1).all()


@pytest.mark.parametrize(
    ("id", "name"),
    [
        (0, "person"),
        (12, "stop sign"),
        (89, "toothbrush"),
        (91, "banner"),
        (123, "grass"),
        (148, "road"),
        (181, "wood"),
    ],
)
def test_coco_names_stand_at_their_png_value(id, name, build):
    assert COCO_STUFF[id] == name
    assert build("coco_stuff").classes[table(build("coco_stuff"))[id]] == name


def test_ade_ids_move_down_by_one_and_nothing_is_ignored(build):
    assert table(build("ade20k")).tolist() == [IGNORE, *range(150)] + [-1] * 105
    assert len(ADE20K) == 150
    some = {1: "wall", 2: "building", 3: "sky", 13: "person", 21: "car", 117: "minibike", 128: "bicycle", 150: "flag"}
    assert {id: ADE20K[id - 1] for id in some} == some


def test_cityscapes_label_ids_become_train_ids(build):
    data = build("cityscapes")
    assert table(data).tolist() == TRAIN_IDS + [-1] * (255 - 34) + [IGNORE]
    assert data.classes == (
        "road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign", "vegetation",
        "terrain", "sky", "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle",
    )  # fmt: skip


def test_bdd_maps_hold_train_ids_as_they_are(build):
    data = build("bdd100k")
    assert table(data).tolist() == [*range(19)] + [-1] * (255 - 19) + [IGNORE]
    assert data.classes == build("cityscapes").classes


def test_bdd_frames_keep_their_proportions(build):
    frame = build("bdd100k", loading={"size": 360}).frame((1280, 720), None)
    assert (frame.resized, frame.window) == ((640, 360), (140, 0, 500, 360))
