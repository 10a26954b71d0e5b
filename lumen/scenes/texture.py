"""Smooth noise that depends on the place alone, and the two ways of mixing with it."""

import numpy as np

LATTICE = np.random.RandomState(64).random_sample((64, 64))
"""Random numbers at the points of a square lattice that repeats every 64 units; legacy stream, frozen by NEP 19."""


def noise(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Noise in [0, 1] with features one unit wide: the lattice, blended smoothly between its points."""
    floor_x, floor_y = np.floor(x), np.floor(y)
    fx, fy = smooth(x - floor_x), smooth(y - floor_y)
    i, j = floor_x.astype(np.int64) & 63, floor_y.astype(np.int64) & 63
    flat, next_i, next_j = LATTICE.ravel(), ((i + 1) & 63) << 6, (j + 1) & 63
    i = i << 6
    low, high = blend(flat[i + j], flat[next_i + j], fx), blend(flat[i + next_j], flat[next_i + next_j], fx)
    return blend(low, high, fy)


def cells(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For dots, one per unit cell: the squared distance to the cell's dot, and a number in [0, 1] for the cell."""
    i, j = np.floor(x).astype(np.int64), np.floor(y).astype(np.int64)
    dx, dy, chance = (LATTICE[(i + 5 * k) & 63, (j + 7 * k) & 63] for k in range(3))
    # Dots keep away from the edge of their cell, which would cut them.
    return (x - i - 0.25 - 0.5 * dx) ** 2 + (y - j - 0.25 - 0.5 * dy) ** 2, chance


def smooth(x: np.ndarray) -> np.ndarray:
    """From 0 to 1 with level ends, for x in [0, 1]."""
    return x * x * (3 - 2 * x)


def blend(a, b, weight):
    return a + weight * (b - a)


def column(colour) -> np.ndarray:
    """A colour (3,) shaped to combine with an image (3, h, w)."""
    return np.array(colour)[:, None, None]
