"""Export of scenes in the official folders and ids of COCO-Stuff, ADE20K and Cityscapes, to exercise their readers."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lumen.core.errors import Mistake, suggestion
from lumen.core.files import atomic_path, write_json
from lumen.scenes.render import Scene, render
from lumen.scenes.world import CLASSES, split_seeds

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
# Pixel values of labelIds. Cityscapes labels sand as terrain and has no water (6 is other ground). Objects without a
# class of their own are static or dynamic. Those and ground are void in its evaluation.
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
CITYSCAPES_PACKAGES = ("leftImg8bit", "gtFine", "disparity", "camera", "gtBbox3d")
LABEL_IDS = {"coco_stuff": COCO_STUFF, "ade20k": ADE20K, "cityscapes": CITYSCAPES}
CITIES = {"train": "lichtenau", "val": "lichtenfels"}
"""City of each split: as in Cityscapes each split has its own, so a file stem is never in two splits."""


def map_labels(scene: Scene, format: str) -> np.ndarray:
    """Return the semantic map (H, W) as uint8 in the ids of another data set."""
    return np.array([LABEL_IDS[format][name] for name in CLASSES], np.uint8)[scene.semantic]


def save_image(pixels: np.ndarray, path: Path) -> None:
    """Write an array in the format of the file's suffix: JPEG of quality 95, or PNG of 8 or 16 bits."""
    with atomic_path(path) as draft:
        if path.suffix == ".jpg":
            # Colour at full resolution: at half resolution it would bleed over edges that are exact in the labels.
            Image.fromarray(pixels).save(draft, "JPEG", quality=95, subsampling=0)
        else:
            Image.fromarray(pixels).save(draft, "PNG")


def write_coco_stuff(out: Path, split: str, scenes: Iterable[Scene]) -> None:
    """Write images, stuffthingmaps and the captions file of one split; an image's id is its seed."""
    images, annotations = [], []
    for scene in scenes:
        name = f"{scene.seed:012d}"
        save_image(scene.image, out / "images" / f"{split}2017" / f"{name}.jpg")
        save_image(map_labels(scene, "coco_stuff"), out / "stuffthingmaps" / f"{split}2017" / f"{name}.png")
        height, width = scene.semantic.shape
        images.append({"id": scene.seed, "file_name": f"{name}.jpg", "height": height, "width": width})
        for k, caption in enumerate(scene.captions):
            annotations.append({"id": scene.seed * 10 + k, "image_id": scene.seed, "caption": caption})
    info = {"description": "LUMEN scenes in the layout of COCO 2017", "version": "1.0"}
    content = {"info": info, "licenses": [], "images": images, "annotations": annotations}
    write_json(out / "annotations" / f"captions_{split}2017.json", content)


def write_ade20k(out: Path, split: str, scenes: Iterable[Scene]) -> dict[str, str]:
    """Write images and annotations of one split. Return the first caption by file stem."""
    root, directory = out / "ADEChallengeData2016", {"train": "training", "val": "validation"}[split]
    captions = {}
    for n, scene in enumerate(scenes, 1):
        stem = f"ADE_{split}_{n:08d}"
        save_image(scene.image, root / "images" / directory / f"{stem}.jpg")
        save_image(map_labels(scene, "ade20k"), root / "annotations" / directory / f"{stem}.png")
        captions[stem] = scene.captions[0]
    return captions


def write_cityscapes(out: Path, split: str, scenes: Iterable[Scene]) -> dict[str, str]:
    """Write leftImg8bit, gtFine, disparity, camera and gtBbox3d of one split. Return the first caption by file stem."""
    captions = {}
    for n, scene in enumerate(scenes):
        city = CITIES[split]
        # 19 is the annotated frame of every official sequence.
        stem = f"{city}_{n:06d}_{19:06d}"
        directories = {package: out / package / split / city for package in CITYSCAPES_PACKAGES}
        save_image(scene.image, directories["leftImg8bit"] / f"{stem}_leftImg8bit.png")
        save_image(map_labels(scene, "cityscapes"), directories["gtFine"] / f"{stem}_gtFine_labelIds.png")
        save_image(instance_id_map(scene), directories["gtFine"] / f"{stem}_gtFine_instanceIds.png")
        save_image(encode_disparity(scene.disparity), directories["disparity"] / f"{stem}_disparity.png")
        write_json(directories["camera"] / f"{stem}_camera.json", describe_camera(scene))
        write_json(directories["gtBbox3d"] / f"{stem}_gtBbox3d.json", describe_boxes(scene))
        captions[stem] = scene.captions[0]
    return captions


def encode_disparity(disparity: np.ndarray) -> np.ndarray:
    """Return the official 16-bit code: 0 is invalid, any other value p means (p - 1) / 256 pixels."""
    values = np.where(disparity > 0, np.rint(disparity * 256) + 1, 0)
    return np.clip(values, 0, 65535).astype(np.uint16)


def car_instance_ids(scene: Scene) -> dict[int, int]:
    """Return the official instance ids 26000, 26001, ... of the cars by object id; no other kind has instances."""
    car_ids = [obj["id"] for obj in scene.graph["objects"] if obj["kind"] == "car"]
    return {i: CITYSCAPES["car"] * 1000 + k for k, i in enumerate(car_ids)}


def instance_id_map(scene: Scene) -> np.ndarray:
    """Return (H, W) uint16: the label id, or label id * 1000 + k for the k-th car."""
    ids = map_labels(scene, "cityscapes").astype(np.uint16)
    for i, instance_id in car_instance_ids(scene).items():
        ids[scene.instance == i] = instance_id
    return ids


def describe_intrinsics(scene: Scene) -> dict[str, float]:
    """Return focal lengths and principal point in pixels."""
    return {key: getattr(scene.camera, key) for key in ("fx", "fy", "u0", "v0")}


def describe_camera(scene: Scene) -> dict[str, Any]:
    """Return the content of *_camera.json."""
    c = scene.camera
    pose = {"x": 0.0, "y": 0.0, "z": c.height, "pitch": c.pitch, "roll": 0.0, "yaw": 0.0}
    return {"extrinsic": {"baseline": c.baseline, **pose}, "intrinsic": describe_intrinsics(scene)}


def describe_boxes(scene: Scene) -> dict[str, Any]:
    """Return the content of *_gtBbox3d.json: the cars, by far the most frequent of Cityscapes' six boxed classes."""
    objects = []
    for i, instance_id in car_instance_ids(scene).items():
        box = scene.boxes_2d[i - 1]
        objects.append(
            {
                "2d": {"modal": box["modal"], "amodal": box["amodal"]},
                "3d": {**scene.boxes_3d[i - 1], "type": "Mid Size Car", "format": "CRS_ISO8855"},
                "occlusion": round(1 - scene.graph["objects"][i - 1]["visible"], 4),
                "truncation": box["truncation"],
                "instanceId": instance_id,
                "label": "car",
                "score": 1.0,
            }
        )
    height, width = scene.semantic.shape
    sensor = {**describe_intrinsics(scene), "baseline": scene.camera.baseline}
    sensor["sensor_T_ISO_8855"] = scene.camera.extrinsic[:3].tolist()
    return {"imgWidth": width, "imgHeight": height, "sensor": sensor, "objects": objects, "ignore": []}


FORMATS: dict[str, Callable] = {
    "coco_stuff": write_coco_stuff,
    "ade20k": write_ade20k,
    "cityscapes": write_cityscapes,
}


def export_scenes(out: Path, format: str, counts: dict[str, int], size: int | tuple[int, int] = 64) -> None:
    """Write scenes as another data set.

    Args:
        out: Empty or new directory.
        format: A key of `FORMATS`.
        counts: Number of scenes by split: {"train": n, "val": n}.
        size: Side of an image in pixels, or height and width.

    Raises:
        Mistake: There is no such format or split, or `out` is not empty.
    """
    out = Path(out)
    if format not in FORMATS:
        raise Mistake(
            f"scenes: no format is called {format!r}; {suggestion(format, FORMATS)} Choose one of these as format=NAME."
        )
    for split in counts:
        if split not in CITIES:
            raise Mistake(f"scenes: {format} has no labelled split {split!r}; choose from: {', '.join(CITIES)}.")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise Mistake(f"scenes: {out} is not an empty folder; name a new one, or empty it first.")
    # Before anything is written: a count beyond the size of the split is a mistake too.
    seeds = {split: split_seeds(split, count) for split, count in counts.items()}
    captions: dict[str, str] = {}
    for split, numbers in seeds.items():
        captions |= FORMATS[format](out, split, (render(seed, size) for seed in numbers)) or {}
    if captions:
        write_json((out / "ADEChallengeData2016" if format == "ade20k" else out) / "captions.json", captions)
