"""Boxes of objects in 3D: the numbers of a tensor of predictions, and the records of Cityscapes' JSON files."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

NUMBERS = 16
"""Numbers of a box. A tensor of boxes (..., m, NUMBERS) is filled up with boxes of the label NO_BOX."""
NO_BOX = -1
LABEL, SCORE = 0, 1  # position in the data set's `box_classes`; confidence in [0, 1]
CENTER = slice(2, 5)  # metres in the vehicle frame: x forward, y left, z up
DIMENSIONS = slice(5, 8)  # length, width and height in metres
ROTATION = slice(8, 12)  # quaternion w, x, y, z
MODAL = slice(12, 16)  # box around the visible pixels: left, top, width, height in pixels of the original frame


def boxes_to_array(objects: Iterable[dict[str, Any]], classes: Sequence[str]) -> np.ndarray:
    """Return the objects of a gtBbox3d file as an array (m, NUMBERS); those of other classes are left out."""
    rows = [
        (
            classes.index(entry["label"]),
            entry.get("score", 1.0),
            *entry["3d"]["center"],
            *entry["3d"]["dimensions"],
            *entry["3d"]["rotation"],
            *entry["2d"].get("modal", entry["2d"]["amodal"]),
        )
        for entry in objects
        if entry["label"] in classes
    ]
    return np.array(rows, np.float64).reshape(-1, NUMBERS)


def array_to_boxes(boxes: np.ndarray, classes: Sequence[str]) -> list[dict[str, Any]]:
    """Return boxes (m, NUMBERS) as the objects of a prediction file of Cityscapes' 3D benchmark.

    Its evaluation computes amodal boxes anew from the 3D boxes, so the modal ones stand in their place.
    """
    return [
        {
            "2d": {"modal": box[MODAL].tolist(), "amodal": box[MODAL].tolist()},
            "3d": {
                "center": box[CENTER].tolist(),
                "dimensions": box[DIMENSIONS].tolist(),
                "rotation": box[ROTATION].tolist(),
            },
            "label": classes[int(box[LABEL])],
            "score": float(box[SCORE]),
        }
        for box in np.asarray(boxes, np.float64)
        if box[LABEL] != NO_BOX
    ]
