"""Matching of predicted boxes with labelled ones in the image, as the 3D benchmark of Cityscapes does it.

Source: cityscapesScripts 2.3.0, evaluation/evalObjectDetection3d.py, evaluation/objectDetectionHelpers.py and
helpers/box3dImageTransform.py. That package cannot be imported here: it writes eval.log and changes logging.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

MIN_OVERLAP = 0.7  # a match has more
MIN_DEPTH_M = 0.01  # of what a camera sees of a box
THRESHOLDS = 0.02 * np.arange(51)
"""Confidences at and above which predictions count, one after another."""

CORNERS = np.array([(x, y, z) for z in (-1, 1) for x, y in ((-1, 1), (-1, -1), (1, -1), (1, 1))]) / 2
EDGES = np.array([(i, j) for i in range(8) for j in range(i) if np.abs(CORNERS[i] - CORNERS[j]).sum() == 1])


def match_boxes(
    overlap: Float[np.ndarray, "g m"], scores: Float[np.ndarray, " m"]
) -> Iterator[tuple[int, int, Bool[np.ndarray, " t"]]]:
    """Yield pairs of a labelled and a predicted box, with the thresholds at which the two are matched.

    At each threshold the pair with the largest overlap is matched, then that of the largest overlap among all others,
    and so on.
    """
    pairs = np.argwhere(overlap > MIN_OVERLAP)
    pairs = pairs[np.argsort(-overlap[tuple(pairs.T)], kind="stable")]
    counts = scores[:, None] >= THRESHOLDS
    is_free = np.ones((len(overlap), len(THRESHOLDS)), bool)
    for labelled, predicted in pairs:
        matched = is_free[labelled] & counts[predicted]
        is_free[labelled] ^= matched
        counts[predicted] ^= matched
        if matched.any():
            yield labelled, predicted, matched


def intersection_over_union(a: Float[np.ndarray, "g 4"], b: Float[np.ndarray, "m 4"]) -> Float[np.ndarray, "g m"]:
    """Return the overlap of boxes (left, top, width, height), each side of which is counted one pixel longer."""
    inside = _intersection(a, b)
    return inside / (_area(a)[:, None] + _area(b) - inside + 1e-10)


def covered_share(regions: Float[np.ndarray, "r 4"], boxes: Float[np.ndarray, "m 4"]) -> Float[np.ndarray, "r m"]:
    """Return the share of each box that each region covers."""
    return _intersection(regions, boxes) / (_area(boxes) + 1e-10)


def amodal_boxes(
    center: Float[np.ndarray, "m 3"],
    dimensions: Float[np.ndarray, "m 3"],
    rotation: Float[np.ndarray, "m 4"],
    sensor: dict[str, Any],
    size: tuple[int, int],
) -> Float[np.ndarray, "m 4"]:
    """Return the boxes (left, top, width, height) around what a camera sees of 3D boxes, cut off at the image's edge.

    Args:
        sensor: fx, fy, u0, v0 and sensor_T_ISO_8855 of a gtBbox3d file.
        size: (width, height) of the image in pixels.
    """
    corners = np.einsum("mij,mkj->mki", rotation_matrices(rotation), CORNERS * dimensions[:, None]) + center[:, None]
    pose = np.array(sensor["sensor_T_ISO_8855"])[:3]
    corners = corners @ pose[:, :3].T + pose[:, 3]  # x forward, y left, z up from the camera
    start, end = corners[:, EDGES[:, 0]], corners[:, EDGES[:, 1]]
    depth_gap = end[..., 0] - start[..., 0]
    share = (MIN_DEPTH_M - start[..., 0]) / np.where(depth_gap == 0, 1, depth_gap)
    is_cut = (start[..., 0] > MIN_DEPTH_M) != (end[..., 0] > MIN_DEPTH_M)
    points = np.concatenate([corners, start + share[..., None] * (end - start)], axis=1)
    is_visible = np.concatenate([corners[..., 0] > MIN_DEPTH_M, is_cut], axis=1)
    depth = np.where(is_visible, points[..., 0], 1)
    columns = sensor["u0"] - sensor["fx"] * points[..., 1] / depth
    rows = sensor["v0"] - sensor["fy"] * points[..., 2] / depth
    first = [np.where(is_visible, axis, np.inf).min(1) for axis in (columns, rows)]
    last = [np.where(is_visible, axis, -np.inf).max(1) for axis in (columns, rows)]
    left, top = (np.clip(axis, 0, side - 1) for axis, side in zip(first, size, strict=True))
    right, bottom = (np.clip(axis, 0, side - 1) for axis, side in zip(last, size, strict=True))
    boxes = np.stack([left, top, right - left, bottom - top], axis=1)
    return np.where(is_visible.any(1, keepdims=True), boxes, 0)


def rotation_matrices(rotation: Float[np.ndarray, "m 4"]) -> Float[np.ndarray, "m 3 3"]:
    """Return the matrices of quaternions (w, x, y, z) of any length."""
    w, x, y, z = (rotation / np.linalg.norm(rotation, axis=1, keepdims=True)).T
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return np.moveaxis(np.array(rows), 2, 0)


def yaw_pitch_roll(rotation: Float[np.ndarray, "m 4"]) -> Float[np.ndarray, "m 3"]:
    """Return the angles of quaternions (w, x, y, z) in radians, as pyquaternion defines them."""
    w, x, y, z = (rotation / np.linalg.norm(rotation, axis=1, keepdims=True)).T
    yaw = np.arctan2(2 * (w * z - x * y), 1 - 2 * (y * y + z * z))
    pitch = np.arcsin(np.clip(2 * (w * y + z * x), -1, 1))
    roll = np.arctan2(2 * (w * x - y * z), 1 - 2 * (x * x + y * y))
    return np.stack([yaw, pitch, roll], axis=1)


def _intersection(a: Float[np.ndarray, "g 4"], b: Float[np.ndarray, "m 4"]) -> Float[np.ndarray, "g m"]:
    first = np.maximum(a[:, None, :2], b[:, :2])
    last = np.minimum(a[:, None, :2] + a[:, None, 2:], b[:, :2] + b[:, 2:])
    return np.maximum(last - first + 1, 0).prod(-1)


def _area(boxes: Float[np.ndarray, "m 4"]) -> Float[np.ndarray, " m"]:
    return (boxes[:, 2:] + 1).prod(1)
