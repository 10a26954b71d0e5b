"""FID from 2048 features of 4096 images and as many samples, by eigenvalues instead of a matrix square root."""

import numpy as np
import torch
from scipy.linalg import sqrtm

from lumen.evaluation.metrics.fid import frechet_distance

PEER = "numpy.cov and scipy.linalg.sqrtm, as in pytorch-fid and clean-fid"
LIBRARIES = ("numpy", "scipy", "torch")
ROUNDS = 3
TOLERANCE = 1e-6
TARGET_SPEEDUP = 4


def inputs(small: bool = False) -> list[np.ndarray]:
    """Return correlated features whose standard deviations span a factor of 30."""
    random = np.random.default_rng(0)
    images, features = (256, 128) if small else (4096, 2048)
    mixing = random.standard_normal((features, features)) * np.geomspace(1, 0.03, features)[:, None]
    return [random.standard_normal((images, features)) @ mixing * scale + scale for scale in (1, 1.1)]


def peer(a: np.ndarray, b: np.ndarray) -> float:
    """Return the distance by a matrix square root."""
    (mean_a, cov_a), (mean_b, cov_b) = ((x.mean(0), np.cov(x, rowvar=False)) for x in (a, b))
    difference = mean_a - mean_b
    return difference @ difference + np.trace(cov_a) + np.trace(cov_b) - 2 * np.trace(sqrtm(cov_a @ cov_b).real)


def ours(a: np.ndarray, b: np.ndarray) -> torch.Tensor:
    """Return the distance by eigenvalues."""
    return frechet_distance(torch.from_numpy(a), torch.from_numpy(b))
