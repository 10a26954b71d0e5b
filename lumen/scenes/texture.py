"""Procedural noise as a function of position, and interpolation."""

import numpy as np

LATTICE = np.random.RandomState(64).random_sample((64, 64))
"""Random numbers at the points of a square lattice with a period of 64 units; NEP 19 froze the legacy stream."""


def value_noise(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return noise in [0, 1] with features one unit wide: the lattice, interpolated smoothly between its points."""
    floor_x, floor_y = np.floor(x), np.floor(y)
    fx, fy = smoothstep(x - floor_x), smoothstep(y - floor_y)
    i, j = floor_x.astype(np.int64) & 63, floor_y.astype(np.int64) & 63
    flat, next_i, next_j = LATTICE.ravel(), ((i + 1) & 63) << 6, (j + 1) & 63
    i = i << 6
    low, high = lerp(flat[i + j], flat[next_i + j], fx), lerp(flat[i + next_j], flat[next_i + next_j], fx)
    return lerp(low, high, fy)


def cellular_noise(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the squared distance to the dot of each unit cell, and a random number in [0, 1] per cell."""
    i, j = np.floor(x).astype(np.int64), np.floor(y).astype(np.int64)
    dx, dy, cell_value = (LATTICE[(i + 5 * k) & 63, (j + 7 * k) & 63] for k in range(3))
    # Dots keep away from the edge of their cell, which would cut them.
    return (x - i - 0.25 - 0.5 * dx) ** 2 + (y - j - 0.25 - 0.5 * dy) ** 2, cell_value


def smoothstep(x: np.ndarray) -> np.ndarray:
    """Return a smooth ramp from 0 to 1 with level ends, for x in [0, 1]."""
    return x * x * (3 - 2 * x)


def lerp(a, b, weight):
    """Return the linear interpolation from `a` (weight 0) to `b` (weight 1)."""
    return a + weight * (b - a)


def as_channels(colour) -> np.ndarray:
    """Return a colour (3,) in a shape that broadcasts with an image (3, h, w)."""
    return np.array(colour)[:, None, None]
