"""20 axes of 40,000 vectors of 768 features; the differences are angles to the axes in float64."""

import torch
from sklearn.decomposition import PCA
from torch import Tensor

from lumen.features.moments import Moments
from lumen.features.pca import principal_axes

PEER = "sklearn's PCA(20), solver auto"
LIBRARIES = ("scikit-learn", "numpy", "scipy", "torch")
ROUNDS = 9
APART = 1e-4
TARGET = 1.2
MISSED = (
    "moments are summed in float64, which takes twice as long as the peer's float32 and lets runs of one process and "
    "of several agree on weak axes; the sum alone takes longer here than the peer"
)


def inputs(small: bool = False) -> tuple:
    return (vectors(*(4000, 600) if small else (40000, 768)),)


def vectors(n: int, c: int) -> Tensor:
    """Deviations of 1, 1/2, 1/3 ... in random directions, noise, and a mean as large as a feature varies."""
    draw = torch.Generator().manual_seed(0)
    directions = torch.linalg.qr(torch.randn(c, c, generator=draw)).Q
    x = torch.randn(n, c, generator=draw) / torch.arange(1, c + 1) @ directions
    return x + 0.01 * torch.randn(n, c, generator=draw) + 0.05 * torch.randn(c, generator=draw)


def peer(x: Tensor) -> Tensor:
    return torch.from_numpy(PCA(20, random_state=0).fit(x.numpy()).components_.T)


def ours(x: Tensor) -> Tensor:
    moments = Moments(x.shape[1])
    moments.update(x)
    return principal_axes(moments.covariance(), 20)[0]


def exact(x: Tensor) -> Tensor:
    return torch.linalg.eigh(torch.cov(x.T.double()))[1][:, -20:]


def apart(axes: Tensor, others: Tensor) -> float:
    """The largest angle between the spaces that they span, in radians."""
    one, other = (torch.linalg.qr(each.double()).Q for each in (axes, others))
    return float(torch.linalg.svdvals(one - other @ (other.T @ one)).max().clamp(max=1).asin())
