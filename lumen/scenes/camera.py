"""The pinhole camera: from pixels to rays and back, in the vehicle frame of Cityscapes."""

from dataclasses import dataclass
from math import cos, radians, sin, tan

import numpy as np

FIELD_OF_VIEW = radians(50)
"""Angle of view across the shorter side of the image; a longer side only adds world at the margins."""

BASELINE = 0.22
"""Distance between the two eyes of the imagined stereo pair in metres, as on the Cityscapes car."""


@dataclass(frozen=True)
class Camera:
    """A camera above the origin of the vehicle frame (x forward, y left, z up, metres; ISO 8855), without yaw and roll.

    A pixel of column j covers [j, j + 1), so its centre is at u = j + 0.5 and the principal point at half the size.
    `fx fy u0 v0` are in pixels, `baseline` and `height` in metres, `pitch` in radians, positive looking down.
    """

    fx: float
    fy: float
    u0: float
    v0: float
    baseline: float
    height: float
    pitch: float

    @classmethod
    def fitted(cls, size: tuple[int, int], height: float, pitch: float) -> "Camera":
        """The camera of an image of `size` (H, W): the square view in the middle is the same at every size."""
        focal = min(size) / 2 / tan(FIELD_OF_VIEW / 2)
        return cls(focal, focal, size[1] / 2, size[0] / 2, BASELINE, height, pitch)

    @property
    def extrinsic(self) -> np.ndarray:
        """The 4 x 4 matrix from the vehicle frame to the camera's (same axes, origin at the eye): sensor_T_ISO_8855."""
        c, s = cos(self.pitch), sin(self.pitch)
        turn = np.array([[c, 0.0, -s], [0.0, 1.0, 0.0], [s, 0.0, c]])
        matrix = np.eye(4)
        matrix[:3, :3] = turn
        matrix[:3, 3] = -self.height * turn[:, 2]
        return matrix

    def directions(self, u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Ray directions (x, y, z) through columns `u` (W,) and rows `v` (H,), one metre long along the optical axis.

        That length makes the ray parameter the depth. Without yaw and roll, x and z depend on the row alone and y on
        the column alone, so they come as (H, 1) and (1, W) and most of the arithmetic behind them stays that small.
        """
        c, s = cos(self.pitch), sin(self.pitch)
        down = ((v - self.v0) / self.fy)[:, None]
        return c - down * s, (self.u0 - u)[None, :] / self.fx, -s - down * c

    def project(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Columns u, rows v (pixels) and depths (metres) of `points` (..., 3) given in the vehicle frame."""
        c, s = cos(self.pitch), sin(self.pitch)
        x, y, z = points[..., 0], points[..., 1], points[..., 2] - self.height
        depth = c * x - s * z
        return self.u0 - self.fx * y / depth, self.v0 - self.fy * (s * x + c * z) / depth, depth

    def grid(self, size: tuple[int, int]) -> tuple[tuple[np.ndarray, np.ndarray, np.ndarray], tuple[int, int]]:
        """Ray directions at every half pixel, edges included, and their shape; pixel (i, j) is at (2i + 1, 2j + 1)."""
        shape = (2 * size[0] + 1, 2 * size[1] + 1)
        return self.directions(np.arange(shape[1]) / 2, np.arange(shape[0]) / 2), shape

    def windows(self, points: np.ndarray, shape: tuple[int, int], first: int = 0) -> list[tuple[slice, slice]]:
        """The part of the grid, from its row `first` on, that shows each of n bodies, given its m corners (n, m, 3)."""
        u, v, _ = self.project(points)
        low = np.floor(2 * np.stack([v.min(1), u.min(1)], 1)) - (first, 0)
        high = np.ceil(2 * np.stack([v.max(1), u.max(1)], 1)) - (first, 0) + 1
        corners = np.clip(np.hstack([low, high]), 0, (*shape, *shape)).astype(int).tolist()
        return [(slice(top, bottom), slice(left, right)) for top, left, bottom, right in corners]
