"""Tables of classes against facts that were written down independently of them."""

import numpy as np
import pytest

from lumen.core.labels import IGNORE
from lumen.data.class_names import ADE20K, COCO_STUFF

# Train id of the label ids 0-33 in order (cityscapesScripts, helpers/labels.py).
x = IGNORE
TRAIN_IDS = [x, x, x, x, x, x, x, 0, 1, x, x, 2, 3, 4, x, x, x, 5, x, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, x, x,
             16, 17, 18]  # fmt: skip
# Thing ids of the 80-class detection task, from 0: those that have annotations in COCO.
THINGS = [*range(0, 11), *range(12, 25), 26, 27, *range(30, 44), *range(45, 65), 66, 69, *range(71, 82), *range(83, 90)]


def label_table(source) -> np.ndarray:
    return source.readers["mask"].keywords["table"]


def test_coco_classes_are_80_things_and_91_stuff(build_source):
    source = build_source("coco_stuff")
    assert len(source.classes) == 171 and len(THINGS) == 80
    ids, table = [*THINGS, *range(91, 182)], label_table(source)
    assert table[ids].tolist() == list(range(171))
    assert np.flatnonzero(table < 0).tolist() == sorted({*range(255)} - {*ids})
    assert table[255] == IGNORE
    unused = {11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90}
    assert {COCO_STUFF[id] for id in unused} == {
        "street sign", "hat", "shoe", "eye glasses", "plate", "mirror", "window", "desk", "door", "blender",
        "hair brush",
    }  # fmt: skip


def test_coco_classes_with_unused_ids(build_source):
    source = build_source("coco_stuff", labels=182)
    table = label_table(source)
    assert len(source.classes) == 182
    assert table[:182].tolist() == list(range(182)) and (table[182:255] == -1).all()


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
def test_coco_class_name_is_at_its_png_value(id, name, build_source):
    source = build_source("coco_stuff")
    assert COCO_STUFF[id] == name
    assert source.classes[label_table(source)[id]] == name


def test_ade_label_ids_are_one_above_their_class(build_source):
    assert label_table(build_source("ade20k")).tolist() == [IGNORE, *range(150)] + [-1] * 105
    assert len(ADE20K) == 150
    names = {1: "wall", 2: "building", 3: "sky", 13: "person", 21: "car", 117: "minibike", 128: "bicycle", 150: "flag"}
    assert {id: ADE20K[id - 1] for id in names} == names


def test_cityscapes_label_ids_become_train_ids(build_source):
    source = build_source("cityscapes")
    assert label_table(source).tolist() == TRAIN_IDS + [-1] * (255 - 34) + [IGNORE]
    assert source.classes == (
        "road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign", "vegetation",
        "terrain", "sky", "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle",
    )  # fmt: skip


def test_bdd_label_ids_are_train_ids(build_source):
    source = build_source("bdd100k")
    assert label_table(source).tolist() == [*range(19)] + [-1] * (255 - 19) + [IGNORE]
    assert source.classes == build_source("cityscapes").classes


def test_bdd_transform_keeps_proportions(build_source):
    transform = build_source("bdd100k", loader={"size": 360}).transform_for((1280, 720), None)
    assert (transform.resized, transform.window) == ((640, 360), (140, 0, 500, 360))
