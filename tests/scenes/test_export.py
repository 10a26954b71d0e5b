"""Exported scenes have the official folders, names and ids, and lose nothing."""

import json

import numpy as np
import pytest
from PIL import Image

from lumen.core.errors import Mistake
from lumen.scenes import CLASSES, render, split_seeds
from lumen.scenes.export import ADE20K, CITYSCAPES, COCO_STUFF, FORMATS, export_scenes

SIZE, COUNTS = (32, 48), {"train": 8, "val": 2}


@pytest.fixture(scope="module")
def trees(tmp_path_factory):
    root = tmp_path_factory.mktemp("trees")
    for format in FORMATS:
        export_scenes(root / format, format, COUNTS, SIZE)
    return root


def scenes(split):
    return [render(seed, SIZE) for seed in split_seeds(split, COUNTS[split])]


def pixels(path):
    return np.asarray(Image.open(path))


def check_files(scene, image, labels, ids):
    assert np.abs(pixels(image).astype(int) - scene.image).mean() < 4
    assert np.array_equal(pixels(labels), np.array([ids[name] for name in CLASSES])[scene.semantic])


def test_export_has_an_id_for_every_class():
    for ids in (COCO_STUFF, ADE20K):
        assert sorted(ids) == sorted(CLASSES) and len(set(ids.values())) == len(CLASSES)
    assert sorted(CITYSCAPES) == sorted(CLASSES) and max(COCO_STUFF.values()) <= 181 and max(ADE20K.values()) <= 150


@pytest.mark.parametrize("split", COUNTS)
def test_export_to_coco_stuff(trees, split):
    root, captions = trees / "coco_stuff", {}
    content = json.loads((root / "annotations" / f"captions_{split}2017.json").read_text())
    for annotation in content["annotations"]:
        captions.setdefault(annotation["image_id"], []).append(annotation["caption"])
    assert len({annotation["id"] for annotation in content["annotations"]}) == 5 * COUNTS[split]
    for scene, entry in zip(scenes(split), content["images"], strict=True):
        assert entry == {"id": scene.seed, "file_name": f"{scene.seed:012d}.jpg", "height": 32, "width": 48}
        image = root / "images" / f"{split}2017" / entry["file_name"]
        check_files(scene, image, root / "stuffthingmaps" / f"{split}2017" / f"{scene.seed:012d}.png", COCO_STUFF)
        assert tuple(captions[scene.seed]) == scene.captions


@pytest.mark.parametrize("split, directory", [("train", "training"), ("val", "validation")])
def test_export_to_ade20k(trees, split, directory):
    root = trees / "ade20k" / "ADEChallengeData2016"
    captions = json.loads((root / "captions.json").read_text())
    assert len(captions) == sum(COUNTS.values())
    for n, scene in enumerate(scenes(split), 1):
        stem = f"ADE_{split}_{n:08d}"
        labels = root / "annotations" / directory / f"{stem}.png"
        check_files(scene, root / "images" / directory / f"{stem}.jpg", labels, ADE20K)
        assert captions[stem] == scene.captions[0]


@pytest.mark.parametrize("split, city", [("train", "lichtenau"), ("val", "lichtenfels")])
def test_export_to_cityscapes(trees, split, city):
    root, num_boxes = trees / "cityscapes", 0
    captions = json.loads((root / "captions.json").read_text())
    for n, scene in enumerate(scenes(split)):
        stem = f"{city}_{n:06d}_000019"

        def path(package, ending, stem=stem):
            return root / package / split / city / f"{stem}_{ending}"

        check_files(scene, path("leftImg8bit", "leftImg8bit.png"), path("gtFine", "gtFine_labelIds.png"), CITYSCAPES)
        code = pixels(path("disparity", "disparity.png")).astype(float)
        assert np.array_equal(code == 0, scene.disparity == 0)
        assert np.abs((code - 1) / 256 - scene.disparity)[code > 0].max() <= 1 / 512 + 1e-6
        camera = json.loads(path("camera", "camera.json").read_text())
        sky = code == 0
        depth = camera["extrinsic"]["baseline"] * camera["intrinsic"]["fx"] / scene.disparity[~sky]
        assert np.allclose(depth, scene.depth[~sky], rtol=1e-5)
        boxes = json.loads(path("gtBbox3d", "gtBbox3d.json").read_text())
        num_boxes += check_boxes(scene, boxes, pixels(path("gtFine", "gtFine_instanceIds.png")))
        assert captions[stem] == scene.captions[0]
    assert split == "val" or num_boxes


def check_boxes(scene, content, instances):
    """Check every boxed car against the instance map and the projection of its 3D box. Return the number of cars."""
    cars = [obj for obj in scene.graph["objects"] if obj["kind"] == "car"]
    assert (content["imgHeight"], content["imgWidth"]) == SIZE and len(content["objects"]) == len(cars)
    assert set(np.unique(instances[instances > 255])) == {entry["instanceId"] for entry in content["objects"]}
    for entry, car in zip(content["objects"], cars, strict=True):
        assert np.array_equal(instances == entry["instanceId"], scene.instance == car["id"])
        centre = np.array(content["sensor"]["sensor_T_ISO_8855"]) @ (*entry["3d"]["center"], 1)
        u = content["sensor"]["u0"] - content["sensor"]["fx"] * centre[1] / centre[0]
        x, _, w, _ = entry["2d"]["amodal"]
        assert x <= u <= x + w and entry["label"] == "car" and 0 <= entry["truncation"] < 1
    return len(cars)


def test_export_writes_only_official_file_types(trees):
    suffixes = {path.suffix for path in trees.rglob("*") if path.is_file()}
    assert suffixes == {".jpg", ".png", ".json"} and not list(trees.rglob(".*"))


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("coco", {"train": 1}), "coco_stuff"),
        (("ade20k", {"test": 1}), "'test'"),
        (("ade20k", {"val": -1}), "-1"),
    ],
)
def test_export_reports_mistakes_before_it_writes(tmp_path, arguments, message):
    with pytest.raises(Mistake, match=message):
        export_scenes(tmp_path / "new", *arguments)
    assert not (tmp_path / "new").exists()


def test_export_leaves_a_directory_with_files_unchanged(tmp_path):
    (tmp_path / "notes.txt").write_text("keep")
    with pytest.raises(Mistake, match=str(tmp_path)):
        export_scenes(tmp_path, "ade20k", {"train": 1})
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
