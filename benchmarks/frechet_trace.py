"""FID from 2048 features of 4096 images and as many samples, by eigenvalues instead of the root of a matrix."""

import numpy as np
import torch
from scipy.linalg import sqrtm

from lumen.evaluation.metrics.fid import frechet_distance

PEER = "numpy.cov and scipy.linalg.sqrtm, as pytorch-fid and clean-fid"
LIBRARIES = ("numpy", "scipy", "torch")
ROUNDS = 3
APART = 1e-6
TARGET = 4


def inputs(small: bool = False) -> list[np.ndarray]:
    """Correlated features whose variances fall over three decades."""
    random = np.random.default_rng(0)
    images, features = (256, 128) if small else (4096, 2048)
    mixing = random.standard_normal((features, features)) * np.geomspace(1, 0.03, features)[:, None]
    return [random.standard_normal((images, features)) @ mixing * scale + scale for scale in (1, 1.1)]


def peer(a: np.ndarray, b: np.ndarray) -> float:
    (m, one), (n, other) = ((x.mean(0), np.cov(x, rowvar=False)) for x in (a, b))
    return (m - n) @ (m - n) + np.trace(one) + np.trace(other) - 2 * np.trace(sqrtm(one @ other).real)


def ours(a: np.ndarray, b: np.ndarray) -> torch.Tensor:
    return frechet_distance(torch.from_numpy(a), torch.from_numpy(b))
