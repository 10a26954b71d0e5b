"""PCA of 40,000 vectors of 768 features to 20 axes; differences are angles to the axes in float64."""

from functools import partial

import torch
from sklearn.decomposition import PCA
from torch import Tensor

from lumen.features.moments import Moments
from lumen.features.pca import principal_axes

PEER = "sklearn's PCA(20), solver full"  # the others miss the axes by more than the tolerance
LIBRARIES = ("scikit-learn", "numpy", "scipy", "torch")
ROUNDS = 9
TOLERANCE = 1e-4
TARGET_SPEEDUP = 1.2


def inputs(small: bool = False) -> tuple:
    """Return random vectors."""
    return (sample_vectors(*(4000, 600) if small else (40000, 768)),)


def sample_vectors(n: int, c: int) -> Tensor:
    """Return vectors with deviations of 1, 1/2, 1/3 ... in random directions, noise, and a mean of similar size."""
    generator = torch.Generator().manual_seed(0)
    directions = torch.linalg.qr(torch.randn(c, c, generator=generator)).Q
    x = torch.randn(n, c, generator=generator) / torch.arange(1, c + 1) @ directions
    return x + 0.01 * torch.randn(n, c, generator=generator) + 0.05 * torch.randn(c, generator=generator)


def peer(x: Tensor, solver: str = "full") -> Tensor:
    """Return the axes by sklearn."""
    return torch.from_numpy(PCA(20, svd_solver=solver, random_state=0).fit(x.numpy()).components_.T)


OTHER_PEERS = {f"solver {name}": partial(peer, solver=name) for name in ("covariance_eigh", "auto")}


def ours(x: Tensor) -> Tensor:
    """Return the axes from moments."""
    moments = Moments(x.shape[1])
    moments.update(x)
    return principal_axes(moments.covariance(), 20)[0]


def exact(x: Tensor) -> Tensor:
    """Return the axes in float64."""
    return torch.linalg.eigh(torch.cov(x.T.double()))[1][:, -20:]


def difference(axes: Tensor, other_axes: Tensor) -> float:
    """Return the largest angle between the spaces that the axes span, in radians."""
    a, b = (torch.linalg.qr(x.double()).Q for x in (axes, other_axes))
    return float(torch.linalg.svdvals(a - b @ (b.T @ a)).max().clamp(max=1).asin())
