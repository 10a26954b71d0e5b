"""Cityscapes (Cordts et al. 2016): 2,975 + 500 street frames, 19 classes; disparity, camera and 3D boxes."""

from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from lumen.core.labels import IGNORE
from lumen.core.ranges import Share
from lumen.core.registry import datamodules
from lumen.data.class_names import CITYSCAPES
from lumen.data.fake import save_image, write_json, write_pair
from lumen.data.index import DatasetIndex
from lumen.data.readers import lookup_table, read_boxes, read_disparity, read_image, read_json, read_label_map
from lumen.data.source import DataSource, LoaderConfig
from lumen.data.transforms import CropTransform

# Ids end at 33. The licence plate has id -1, which is 255 in one byte.
CLASS_OF_ID = dict.fromkeys((*range(34), 255), IGNORE) | {id: train_id for train_id, id in enumerate(CITYSCAPES)}


@datamodules.register
class Cityscapes(DataSource):
    """leftImg8bit/ and gtFine/{train,val}/CITY, captions.json {CITY_SEQ_FRAME: caption}; others where present.

    A frame is resized to `size` x 2 `size`. Training uses a random square of it, evaluation the central square, or
    with full=true the whole frame. `extra` has the following, None where the file does not exist:

    - disparity (H, W), in pixels of the resized image, NaN where invalid: resized, cropped and flipped as the image;
    - camera, the calibration, and boxes, the content of gtBbox3d: objects (2d as [x, y, w, h]; 3d in the vehicle
      frame: x forward, y left, z up; metres), sensor, the calibration of their camera, and ignore, regions in which
      detections do not count. Both are unchanged, for the original pixels;
    - frame, the `CropTransform` from original pixels to this image. A disparity over `frame.scale` is one in original
      pixels.

    Args:
        fit: stretch or pad: whole frames made square, in place of random crops.
    """

    classes = tuple(CITYSCAPES.values())
    random_crop = True
    box_classes = ("car", "truck", "bus", "train", "motorcycle", "bicycle")
    # Those of ALDM (boschresearch/ALDM, generate_cityscapes_domain_train_set_DA.py).
    domain_phrases = {"night": "night scene", "snow": "snowy scene", "fog": "foggy scene", "rain": "rainy scene"}
    licence = "Cityscapes is for non-commercial research; what is derived from it may not be passed on."
    published_images = {"train": 2_975, "val": 500}

    def __init__(
        self,
        root: str,
        captions: str | None = None,
        full: bool = False,
        flip: Share = 0.5,
        fit: Literal["stretch", "crop", "pad"] | None = None,
        *,
        loader_config: LoaderConfig,
    ):
        super().__init__(root, loader_config)
        self.captions, self.flip = captions, flip
        self.use_fit(fit, full)
        self.readers = {
            "image": read_image,
            "mask": partial(read_label_map, table=lookup_table(CLASS_OF_ID)),
            "disparity": read_disparity,
            "camera": read_json,
            "boxes": read_boxes,
        }

    def index_split(self, split: str) -> DatasetIndex:
        """Return the files of a split."""
        index = DatasetIndex(self.root)
        index.add_files("image", ("_leftImg8bit.png",), f"leftImg8bit/{split}")
        index.add_files("mask", ("_gtFine_labelIds.png",), f"gtFine/{split}")
        index.add_files("disparity", ("_disparity.png",), f"disparity/{split}", optional=True)
        index.add_files("camera", ("_camera.json",), f"camera/{split}", optional=True)
        index.add_files("boxes", ("_gtBbox3d.json",), f"gtBbox3d/{split}", optional=True)
        index.add_captions(self.captions, "captions.json")
        return index

    def resize(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return the size of a frame that random crops are taken from."""
        return 2 * self.loader_config.size, self.loader_config.size

    def to_tensors(self, parts: dict[str, Any], transform: CropTransform) -> dict[str, Any]:
        """Return the parts as tensors, with disparity in pixels of the resized image."""
        tensors = super().to_tensors(parts, transform)
        if "disparity" in tensors:
            tensors["disparity"] = tensors["disparity"] * transform.scale
        return tensors | {"frame": transform}

    @staticmethod
    def fake(root: str | Path) -> None:
        """Write a tiny data set in the official format."""
        root, captions = Path(root), {}
        for split, city, count in (("train", "aachen", 6), ("val", "frankfurt", 3)):
            for i in range(count):
                stem = f"{city}_{i:06}_000019"
                _write_frame(root, f"{split}/{city}/{stem}", i)
                captions[stem] = f"a street in {city}, frame {i}"
        write_json(root / "captions.json", captions)


def _write_frame(root: Path, name: str, seed: int) -> None:
    """Write all files of a frame; frames with an odd seed have no 3D boxes."""
    image, mask = root / f"leftImg8bit/{name}_leftImg8bit.png", root / f"gtFine/{name}_gtFine_labelIds.png"
    write_pair(image, mask, list(range(34)), (128, 64), seed)
    stored = np.random.default_rng(seed).integers(0, 128 * 256, (64, 128))
    save_image(root / f"disparity/{name}_disparity.png", stored.astype(np.uint16))
    calibration = {
        "extrinsic": {"baseline": 0.209313, "pitch": 0.038, "roll": 0.0, "x": 1.7, "y": 0.1, "yaw": -0.0195, "z": 1.22},
        "intrinsic": {"fx": 141.4, "fy": 141.4, "u0": 64.0, "v0": 32.0},
    }
    write_json(root / f"camera/{name}_camera.json", calibration)
    if seed % 2 == 0:
        write_json(root / f"gtBbox3d/{name}_gtBbox3d.json", _boxes(calibration["intrinsic"]))


def _boxes(intrinsic: dict[str, float]) -> dict[str, Any]:
    """Return the 3D boxes of a frame: one car, and a region in which detections do not count."""
    car = {
        "2d": {"modal": [40, 20, 20, 12], "amodal": [40, 20, 22, 12]},
        "3d": {"center": [20.0, 1.0, 0.8], "dimensions": [4.2, 1.8, 1.5], "rotation": [1.0, 0.0, 0.0, 0.0]},
        "occlusion": 0.0,
        "truncation": 0.0,
        "instanceId": 26000,
        "label": "car",
        "score": 1.0,
    }
    pose = [[1.0, 0.0, 0.0, -1.7], [0.0, 1.0, 0.0, -0.1], [0.0, 0.0, 1.0, -1.22]]
    sensor = intrinsic | {"baseline": 0.209313, "sensor_T_ISO_8855": pose}
    region = {"2d": [100, 24, 20, 10], "label": "cargroup"}
    return {"imgWidth": 128, "imgHeight": 64, "sensor": sensor, "objects": [car], "ignore": [region]}
