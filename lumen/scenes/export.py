"""Scenes written in the official folders and ids of COCO-Stuff, ADE20K and Cityscapes, to exercise their readers."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lumen.core.errors import Mistake, known
from lumen.core.files import beside, write_json
from lumen.scenes.render import Scene, render
from lumen.scenes.world import CLASSES, seeds

# Pixel values of stuffthingmaps: one less than the id in COCO-Stuff's labels.txt, which the trailing comment gives.
COCO_STUFF = {
    "sky": 156,  # 157 sky-other
    "grass": 123,  # 124 grass
    "sand": 153,  # 154 sand
    "water": 177,  # 178 water-other
    "road": 148,  # 149 road
    "ball": 36,  # 37 sports ball
    "box": 99,  # 100 cardboard
    "pillar": 161,  # 162 stone
    "tree": 168,  # 169 tree
    "house": 127,  # 128 house
    "car": 2,  # 3 car
}
# Pixel values of ADE20K's annotations: the ids of objectInfo150.txt (0 is "other").
ADE20K = {
    "sky": 3, "grass": 10, "sand": 47, "water": 22, "road": 7,
    "ball": 120, "box": 42, "pillar": 43, "tree": 5, "house": 26, "car": 21,
}  # fmt: skip
# Pixel values of labelIds. Cityscapes counts sand as terrain, has no water (6 is other ground), and calls what it has
# no class for static or dynamic; these three are void when it is evaluated.
CITYSCAPES = {
    "sky": 23,  # sky
    "grass": 22,  # terrain
    "sand": 22,  # terrain
    "water": 6,  # ground
    "road": 7,  # road
    "ball": 5,  # dynamic
    "box": 4,  # static
    "pillar": 17,  # pole
    "tree": 21,  # vegetation
    "house": 11,  # building
    "car": 26,  # car
}
PACKAGES = ("leftImg8bit", "gtFine", "disparity", "camera", "gtBbox3d")
IDS = {"coco_stuff": COCO_STUFF, "ade20k": ADE20K, "cityscapes": CITYSCAPES}
CITIES = {"train": "lichtenau", "val": "lichtenfels"}
"""A city of its own for each split, as in Cityscapes, so a file stem is never in two splits."""


def labels(scene: Scene, format: str) -> np.ndarray:
    """The semantic map (H, W) uint8 in the ids of another data set."""
    return np.array([IDS[format][name] for name in CLASSES], np.uint8)[scene.semantic]


def save(pixels: np.ndarray, path: Path) -> None:
    """An array as an image of the kind its name asks for: JPEG of quality 95, or PNG of 8 or 16 bits."""
    with beside(path) as draft:
        if path.suffix == ".jpg":
            # Colour at full resolution: halved, it would bleed over edges that are exact in the labels.
            Image.fromarray(pixels).save(draft, "JPEG", quality=95, subsampling=0)
        else:
            Image.fromarray(pixels).save(draft, "PNG")


def coco_stuff(out: Path, split: str, scenes) -> None:
    """images, stuffthingmaps and the captions file of one split; an image's id is its seed."""
    images, annotations = [], []
    for scene in scenes:
        name = f"{scene.seed:012d}"
        save(scene.image, out / "images" / f"{split}2017" / f"{name}.jpg")
        save(labels(scene, "coco_stuff"), out / "stuffthingmaps" / f"{split}2017" / f"{name}.png")
        height, width = scene.semantic.shape
        images.append({"id": scene.seed, "file_name": f"{name}.jpg", "height": height, "width": width})
        for k, caption in enumerate(scene.captions):
            annotations.append({"id": scene.seed * 10 + k, "image_id": scene.seed, "caption": caption})
    info = {"description": "LUMEN scenes in the layout of COCO 2017", "version": "1.0"}
    content = {"info": info, "licenses": [], "images": images, "annotations": annotations}
    write_json(out / "annotations" / f"captions_{split}2017.json", content)


def ade20k(out: Path, split: str, scenes) -> dict[str, str]:
    """images and annotations of one split; returns {stem: caption}."""
    root, folder = out / "ADEChallengeData2016", {"train": "training", "val": "validation"}[split]
    captions = {}
    for n, scene in enumerate(scenes, 1):
        stem = f"ADE_{split}_{n:08d}"
        save(scene.image, root / "images" / folder / f"{stem}.jpg")
        save(labels(scene, "ade20k"), root / "annotations" / folder / f"{stem}.png")
        captions[stem] = scene.captions[0]
    return captions


def cityscapes(out: Path, split: str, scenes) -> dict[str, str]:
    """leftImg8bit, gtFine, disparity, camera and gtBbox3d of one split; returns {stem: caption}."""
    captions = {}
    for n, scene in enumerate(scenes):
        city = CITIES[split]
        # 19 is the annotated frame of every official sequence.
        stem = f"{city}_{n:06d}_{19:06d}"
        folder = {package: out / package / split / city for package in PACKAGES}
        save(scene.image, folder["leftImg8bit"] / f"{stem}_leftImg8bit.png")
        save(labels(scene, "cityscapes"), folder["gtFine"] / f"{stem}_gtFine_labelIds.png")
        save(instance_ids(scene), folder["gtFine"] / f"{stem}_gtFine_instanceIds.png")
        save(coded(scene.disparity), folder["disparity"] / f"{stem}_disparity.png")
        write_json(folder["camera"] / f"{stem}_camera.json", camera(scene))
        write_json(folder["gtBbox3d"] / f"{stem}_gtBbox3d.json", bbox3d(scene))
        captions[stem] = scene.captions[0]
    return captions


def coded(disparity: np.ndarray) -> np.ndarray:
    """The official 16 bits: 0 is invalid, any other value p means (p - 1) / 256 pixels."""
    values = np.where(disparity > 0, np.rint(disparity * 256) + 1, 0)
    return np.clip(values, 0, 65535).astype(np.uint16)


def cars(scene: Scene) -> dict[int, int]:
    """The official instance ids 26000, 26001, ... of the cars; nothing else here has instances there."""
    found = [thing["id"] for thing in scene.graph["objects"] if thing["kind"] == "car"]
    return {i: CITYSCAPES["car"] * 1000 + k for k, i in enumerate(found)}


def instance_ids(scene: Scene) -> np.ndarray:
    """(H, W) uint16: the label id, or label id * 1000 + k for the k-th car."""
    ids = labels(scene, "cityscapes").astype(np.uint16)
    for i, code in cars(scene).items():
        ids[scene.instance == i] = code
    return ids


def sensor(scene: Scene) -> dict[str, float]:
    return {key: getattr(scene.camera, key) for key in ("fx", "fy", "u0", "v0")}


def camera(scene: Scene) -> dict[str, Any]:
    """The contents of *_camera.json."""
    c = scene.camera
    place = {"x": 0.0, "y": 0.0, "z": c.height, "pitch": c.pitch, "roll": 0.0, "yaw": 0.0}
    return {"extrinsic": {"baseline": c.baseline, **place}, "intrinsic": sensor(scene)}


def bbox3d(scene: Scene) -> dict[str, Any]:
    """The contents of *_gtBbox3d.json: the cars, by far the commonest of Cityscapes' six boxed classes."""
    objects = []
    for i, code in cars(scene).items():
        box = scene.boxes_2d[i - 1]
        objects.append(
            {
                "2d": {"modal": box["modal"], "amodal": box["amodal"]},
                "3d": {**scene.boxes_3d[i - 1], "type": "Mid Size Car", "format": "CRS_ISO8855"},
                "occlusion": round(1 - scene.graph["objects"][i - 1]["visible"], 4),
                "truncation": box["truncation"],
                "instanceId": code,
                "label": "car",
                "score": 1.0,
            }
        )
    height, width = scene.semantic.shape
    calibration = {**sensor(scene), "baseline": scene.camera.baseline}
    calibration["sensor_T_ISO_8855"] = scene.camera.extrinsic[:3].tolist()
    return {"imgWidth": width, "imgHeight": height, "sensor": calibration, "objects": objects, "ignore": []}


FORMATS: dict[str, Callable] = {"coco_stuff": coco_stuff, "ade20k": ade20k, "cityscapes": cityscapes}


def write(out: Path, format: str, counts: dict[str, int], size: int | tuple[int, int] = 64) -> None:
    """Write `counts` = {"train": n, "val": n} scenes of `size` pixels (one number, or H and W) into the folder `out`.

    Raises:
        Mistake: no such format or split, or `out` holds something already.
    """
    out = Path(out)
    if format not in FORMATS:
        raise Mistake(
            f"scenes: no format is called {format!r}; {known(format, FORMATS)} Choose one of these as format=NAME."
        )
    for split in counts:
        if split not in CITIES:
            raise Mistake(
                f"scenes: {format} has no labelled split {split!r} to write; choose from: {', '.join(CITIES)}."
            )
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise Mistake(f"scenes: {out} is not an empty folder; name a new one, or empty it first.")
    # Before anything is written: a count beyond the split is a mistake too.
    ranges = {split: seeds(split, count) for split, count in counts.items()}
    captions: dict[str, str] = {}
    for split, numbers in ranges.items():
        captions |= FORMATS[format](out, split, (render(seed, size) for seed in numbers)) or {}
    if captions:
        write_json((out / "ADEChallengeData2016" if format == "ade20k" else out) / "captions.json", captions)
