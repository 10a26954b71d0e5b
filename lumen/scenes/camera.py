"""Pinhole camera in the vehicle frame of Cityscapes: pixels to rays and back."""

from dataclasses import dataclass
from math import cos, radians, sin, tan

import numpy as np

FIELD_OF_VIEW = radians(50)
"""Angle of view across the shorter side of the image, in radians; a longer side only adds world at the margins."""

BASELINE_M = 0.22
"""Distance between the two eyes of the simulated stereo pair in metres, as on the Cityscapes car."""


@dataclass(frozen=True)
class Camera:
    """Camera above the origin of the vehicle frame, without yaw and roll.

    The vehicle frame has x forward, y left and z up, in metres (ISO 8855). The pixel in column j covers [j, j + 1).
    So its centre is at u = j + 0.5, and the principal point is at half the image size.

    Attributes:
        fx: Focal length in pixels, as is `fy`.
        u0: Column of the principal point in pixels; `v0` is its row.
        baseline: Distance of the stereo pair in metres.
        height: Height above the ground in metres.
        pitch: Angle in radians, positive looking down.
    """

    fx: float
    fy: float
    u0: float
    v0: float
    baseline: float
    height: float
    pitch: float

    @classmethod
    def for_size(cls, size: tuple[int, int], height: float, pitch: float) -> "Camera":
        """Return the camera of an image of `size` (H, W). The square view in the middle is the same at every size."""
        focal = min(size) / 2 / tan(FIELD_OF_VIEW / 2)
        return cls(focal, focal, size[1] / 2, size[0] / 2, BASELINE_M, height, pitch)

    @property
    def extrinsic(self) -> np.ndarray:
        """Matrix (4, 4) from the vehicle frame to the camera frame: Cityscapes' sensor_T_ISO_8855.

        The camera frame has the same axes, turned by the pitch, and its origin at the eye.
        """
        c, s = cos(self.pitch), sin(self.pitch)
        rotation = np.array([[c, 0.0, -s], [0.0, 1.0, 0.0], [s, 0.0, c]])
        matrix = np.eye(4)
        matrix[:3, :3] = rotation
        matrix[:3, 3] = -self.height * rotation[:, 2]
        return matrix

    def ray_directions(self, u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return ray directions (x, y, z) through columns `u` (W,) and rows `v` (H,).

        A direction is one metre long along the optical axis, so the ray parameter is the depth. Without yaw and roll,
        x and z depend on the row alone and y on the column alone. They are returned as (H, 1) and (1, W), so that most
        of the arithmetic on them stays small.
        """
        c, s = cos(self.pitch), sin(self.pitch)
        down = ((v - self.v0) / self.fy)[:, None]
        return c - down * s, (self.u0 - u)[None, :] / self.fx, -s - down * c

    def project(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return columns u and rows v in pixels and depths in metres of `points` (..., 3) in the vehicle frame."""
        c, s = cos(self.pitch), sin(self.pitch)
        x, y, z = points[..., 0], points[..., 1], points[..., 2] - self.height
        depth = c * x - s * z
        return self.u0 - self.fx * y / depth, self.v0 - self.fy * (s * x + c * z) / depth, depth

    def half_pixel_rays(
        self, size: tuple[int, int]
    ) -> tuple[tuple[np.ndarray, np.ndarray, np.ndarray], tuple[int, int]]:
        """Return ray directions at every half pixel, edges included, and the shape of their grid.

        The centre of pixel (i, j) is at (2i + 1, 2j + 1) of the grid.
        """
        shape = (2 * size[0] + 1, 2 * size[1] + 1)
        return self.ray_directions(np.arange(shape[1]) / 2, np.arange(shape[0]) / 2), shape

    def bounding_windows(
        self, points: np.ndarray, shape: tuple[int, int], first_row: int = 0
    ) -> list[tuple[slice, slice]]:
        """Return the rows and columns of the half-pixel grid that enclose each of n bodies.

        Args:
            points: Corners (n, m, 3) of the bodies.
            shape: Shape of the grid.
            first_row: Row of the whole grid at which this part of it begins.
        """
        u, v, _ = self.project(points)
        low = np.floor(2 * np.stack([v.min(1), u.min(1)], 1)) - (first_row, 0)
        high = np.ceil(2 * np.stack([v.max(1), u.max(1)], 1)) - (first_row, 0) + 1
        corners = np.clip(np.hstack([low, high]), 0, (*shape, *shape)).astype(int).tolist()
        return [(slice(top, bottom), slice(left, right)) for top, left, bottom, right in corners]
