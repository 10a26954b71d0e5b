"""Cityscapes (Cordts et al. 2016): 2,975 + 500 street frames, 19 classes; disparity, camera and 3D boxes."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lumen.core.interfaces import IGNORE
from lumen.core.registry import datamodules
from lumen.data.class_names import CITYSCAPES
from lumen.data.datamodule import DataModule, Loading
from lumen.data.fake import save, write_json, write_pair
from lumen.data.index import Survey
from lumen.data.readers import boxes, disparity, document, label_map, lookup, picture
from lumen.data.transforms import Frame, chance, window

# Ids run to 33; 255 is what the licence plate's -1 becomes in one byte.
CLASS_OF = dict.fromkeys((*range(34), 255), IGNORE) | {id: train for train, id in enumerate(CITYSCAPES)}


@datamodules.register
class Cityscapes(DataModule):
    """leftImg8bit/ and gtFine/{train,val}/CITY, captions.json {CITY_SEQ_FRAME: caption}; others where present.

    A frame is resized to `size` x 2 `size`. Training looks at a random square of it, evaluation at the square
    in the middle, or with full=true at all of it. `extra` has, None where the file does not exist:
    disparity (H, W), in pixels of the resized image, NaN where invalid; it follows resizing, crop and mirroring;
    camera, the calibration, and boxes, the objects of gtBbox3d (2d as [x, y, w, h]; 3d in the vehicle frame: x forward,
    y left, z up; metres), both as they stand in the file, for the original pixels: `extra["frame"]` says how
    those map to this image.
    """

    classes = tuple(CITYSCAPES.values())
    windows = True

    def __init__(
        self, root: str, captions: str | None = None, full: bool = False, flip: float = 0.5, *, loading: Loading
    ):
        super().__init__(root, loading)
        self.captions, self.full, self.flip = captions, full, flip
        labels = partial(label_map, table=lookup(CLASS_OF))
        self.readers = {"image": picture, "mask": labels, "disparity": disparity, "camera": document, "boxes": boxes}

    def survey(self, split: str) -> Survey:
        survey = Survey(self.root)
        survey.add("image", ("_leftImg8bit.png",), f"leftImg8bit/{split}")
        survey.add("mask", ("_gtFine_labelIds.png",), f"gtFine/{split}")
        survey.add("disparity", ("_disparity.png",), f"disparity/{split}", optional=True)
        survey.add("camera", ("_camera.json",), f"camera/{split}", optional=True)
        survey.add("boxes", ("_gtBbox3d.json",), f"gtBbox3d/{split}", optional=True)
        survey.caption(self.captions, "captions.json")
        return survey

    def frame(self, given: tuple[int, int], draw: torch.Generator | None) -> Frame:
        size = self.loading.size
        resized = (2 * size, size)
        whole = draw is None and self.full
        place = window(resized, resized if whole else (size, size), draw)
        return Frame(given, resized, place, chance(self.flip, draw))

    def seen(self, parts: dict[str, Any], frame: Frame) -> dict[str, Any]:
        seen = super().seen(parts, frame)
        if "disparity" in seen:
            seen["disparity"] = seen["disparity"] * frame.scale
        return seen | {"frame": frame}

    @staticmethod
    def fake(root: str | Path) -> None:
        root, said = Path(root), {}
        for split, city, count in (("train", "aachen", 6), ("val", "frankfurt", 3)):
            for i in range(count):
                stem = f"{city}_{i:06}_000019"
                _fake_frame(root, f"{split}/{city}/{stem}", i)
                said[stem] = f"a street in {city}, frame {i}"
        write_json(root / "captions.json", said)


def _fake_frame(root: Path, name: str, seed: int) -> None:
    """One frame with all its files; frames with an odd seed have no 3D boxes."""
    image, mask = root / f"leftImg8bit/{name}_leftImg8bit.png", root / f"gtFine/{name}_gtFine_labelIds.png"
    write_pair(image, mask, list(range(34)), (128, 64), seed)
    stored = np.random.default_rng(seed).integers(0, 128 * 256, (64, 128))
    save(root / f"disparity/{name}_disparity.png", stored.astype(np.uint16))
    calibration = {
        "extrinsic": {"baseline": 0.209313, "pitch": 0.038, "roll": 0.0, "x": 1.7, "y": 0.1, "yaw": -0.0195, "z": 1.22},
        "intrinsic": {"fx": 141.4, "fy": 141.4, "u0": 64.0, "v0": 32.0},
    }
    write_json(root / f"camera/{name}_camera.json", calibration)
    if seed % 2 == 0:
        car = {
            "2d": {"modal": [40, 20, 20, 12], "amodal": [40, 20, 22, 12]},
            "3d": {"center": [20.0, 1.0, 0.8], "dimensions": [4.2, 1.8, 1.5], "rotation": [1.0, 0.0, 0.0, 0.0]},
            "label": "car",
            "instanceId": 1,
        }
        write_json(root / f"gtBbox3d/{name}_gtBbox3d.json", {"imgWidth": 128, "imgHeight": 64, "objects": [car]})
