"""Each format is written in its official folders, names and ids, and nothing is lost on the way."""

import json

import numpy as np
import pytest
from PIL import Image

from lumen.core.errors import Mistake
from lumen.scenes import CLASSES, render, seeds
from lumen.scenes.export import ADE20K, CITYSCAPES, COCO_STUFF, FORMATS, write

SIZE, COUNTS = (32, 48), {"train": 8, "val": 2}


@pytest.fixture(scope="module")
def trees(tmp_path_factory):
    root = tmp_path_factory.mktemp("trees")
    for format in FORMATS:
        write(root / format, format, COUNTS, SIZE)
    return root


def scenes(split):
    return [render(seed, SIZE) for seed in seeds(split, COUNTS[split])]


def pixels(path):
    return np.asarray(Image.open(path))


def check(scene, image, labels, ids):
    assert np.abs(pixels(image).astype(int) - scene.image).mean() < 4
    assert np.array_equal(pixels(labels), np.array([ids[name] for name in CLASSES])[scene.semantic])


def test_every_class_has_an_id_of_its_own():
    for ids in (COCO_STUFF, ADE20K):
        assert sorted(ids) == sorted(CLASSES) and len(set(ids.values())) == len(CLASSES)
    assert sorted(CITYSCAPES) == sorted(CLASSES) and max(COCO_STUFF.values()) <= 181 and max(ADE20K.values()) <= 150


@pytest.mark.parametrize("split", COUNTS)
def test_coco_stuff(trees, split):
    root, captions = trees / "coco_stuff", {}
    content = json.loads((root / "annotations" / f"captions_{split}2017.json").read_text())
    for note in content["annotations"]:
        captions.setdefault(note["image_id"], []).append(note["caption"])
    assert len({note["id"] for note in content["annotations"]}) == 5 * COUNTS[split]
    for scene, entry in zip(scenes(split), content["images"], strict=True):
        assert entry == {"id": scene.seed, "file_name": f"{scene.seed:012d}.jpg", "height": 32, "width": 48}
        image = root / "images" / f"{split}2017" / entry["file_name"]
        check(scene, image, root / "stuffthingmaps" / f"{split}2017" / f"{scene.seed:012d}.png", COCO_STUFF)
        assert tuple(captions[scene.seed]) == scene.captions


@pytest.mark.parametrize("split, folder", [("train", "training"), ("val", "validation")])
def test_ade20k(trees, split, folder):
    root = trees / "ade20k" / "ADEChallengeData2016"
    captions = json.loads((root / "captions.json").read_text())
    assert len(captions) == sum(COUNTS.values())
    for n, scene in enumerate(scenes(split), 1):
        stem = f"ADE_{split}_{n:08d}"
        check(scene, root / "images" / folder / f"{stem}.jpg", root / "annotations" / folder / f"{stem}.png", ADE20K)
        assert captions[stem] == scene.captions[0]


@pytest.mark.parametrize("split, city", [("train", "lichtenau"), ("val", "lichtenfels")])
def test_cityscapes(trees, split, city):
    root, boxed = trees / "cityscapes", 0
    captions = json.loads((root / "captions.json").read_text())
    for n, scene in enumerate(scenes(split)):
        stem = f"{city}_{n:06d}_000019"

        def path(package, ending, stem=stem):
            return root / package / split / city / f"{stem}_{ending}"

        check(scene, path("leftImg8bit", "leftImg8bit.png"), path("gtFine", "gtFine_labelIds.png"), CITYSCAPES)
        coded = pixels(path("disparity", "disparity.png")).astype(float)
        assert np.array_equal(coded == 0, scene.disparity == 0)
        assert np.abs((coded - 1) / 256 - scene.disparity)[coded > 0].max() <= 1 / 512 + 1e-6
        camera = json.loads(path("camera", "camera.json").read_text())
        sky = coded == 0
        depth = camera["extrinsic"]["baseline"] * camera["intrinsic"]["fx"] / scene.disparity[~sky]
        assert np.allclose(depth, scene.depth[~sky], rtol=1e-5)
        boxed += boxes_agree(
            scene,
            json.loads(path("gtBbox3d", "gtBbox3d.json").read_text()),
            pixels(path("gtFine", "gtFine_instanceIds.png")),
        )
        assert captions[stem] == scene.captions[0]
    assert split == "val" or boxed


def boxes_agree(scene, content, instances):
    """The number of boxed cars, each of them checked against the instance map and the projection of its 3D box."""
    cars = [thing for thing in scene.graph["objects"] if thing["kind"] == "car"]
    assert (content["imgHeight"], content["imgWidth"]) == SIZE and len(content["objects"]) == len(cars)
    assert set(np.unique(instances[instances > 255])) == {entry["instanceId"] for entry in content["objects"]}
    for entry, car in zip(content["objects"], cars, strict=True):
        assert np.array_equal(instances == entry["instanceId"], scene.instance == car["id"])
        centre = np.array(content["sensor"]["sensor_T_ISO_8855"]) @ (*entry["3d"]["center"], 1)
        u = content["sensor"]["u0"] - content["sensor"]["fx"] * centre[1] / centre[0]
        x, _, w, _ = entry["2d"]["amodal"]
        assert x <= u <= x + w and entry["label"] == "car" and 0 <= entry["truncation"] < 1
    return len(cars)


def test_nothing_but_the_official_files(trees):
    names = {path.suffix for path in trees.rglob("*") if path.is_file()}
    assert names == {".jpg", ".png", ".json"} and not list(trees.rglob(".*"))


@pytest.mark.parametrize(
    "arguments, said",
    [
        (("coco", {"train": 1}), "did you mean 'coco_stuff'"),
        (("ade20k", {"test": 1}), "no labelled split 'test'"),
        (("ade20k", {"val": -1}), "-1"),
    ],
)
def test_mistakes_are_said_before_anything_is_written(tmp_path, arguments, said):
    with pytest.raises(Mistake, match=said):
        write(tmp_path / "new", *arguments)
    assert not (tmp_path / "new").exists()


def test_a_folder_in_use_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(Mistake, match="is not an empty folder"):
        write(tmp_path, "ade20k", {"train": 1})
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
