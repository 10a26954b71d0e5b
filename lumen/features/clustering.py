"""K-means of feature vectors: clusters in a fixed order, the same on every machine."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from lumen.core.random import generator
from lumen.core.resize import resize

ITERATIONS = 50
CHUNK = 2**15  # vectors whose distances are in memory at once


class Clusters(nn.Module):
    """Clusters of feature vectors, by their means.

    Args:
        count: Number of clusters. Those that no vector is nearest to stay empty.
        channels: Channels of a vector.
        centre: Whether each image's mean feature is removed before, and with it most of what light and weather do.
    """

    def __init__(self, count: int, channels: int, centre: bool = False):
        super().__init__()
        self.count, self.centre = count, centre
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("scale", torch.zeros(channels))
        self.register_buffer("means", torch.zeros(count, channels))

    @property
    def fitted(self) -> bool:
        """True once `fit` has run."""
        return bool(self.scale.any())

    @torch.no_grad()
    def fit(self, maps: Float[Tensor, "b c h w"], seed: int) -> None:
        """Estimate the clusters from the feature maps of some images; the largest cluster is the first."""
        self.fit_vectors(self._vectors(maps), seed)

    @torch.no_grad()
    def fit_vectors(self, vectors: Float[Tensor, "n c"], seed: int) -> None:
        """Estimate the clusters from feature vectors, from which `centre` has removed the mean of their image."""
        self.mean.copy_(vectors.mean(0))
        self.scale.copy_(vectors.std(0).clamp(min=1e-6))
        self.means.copy_(fit_means((vectors - self.mean) / self.scale, self.count, seed))

    @torch.no_grad()
    def assign(self, maps: Float[Tensor, "b c h w"], grid: tuple[int, int]) -> Int[Tensor, "b h w"]:
        """Return the nearest cluster of each cell of a grid, always in fp32."""
        with torch.autocast(maps.device.type, enabled=False):
            nearest = _nearest((self._vectors(resize(maps, grid)) - self.mean) / self.scale, self.means)
        return nearest.view(len(maps), *grid)

    def _vectors(self, maps: Float[Tensor, "b c h w"]) -> Float[Tensor, "n c"]:
        if self.centre:
            maps = maps - maps.mean((2, 3), keepdim=True)
        return maps.permute(0, 2, 3, 1).flatten(0, 2)


def fit_means(vectors: Float[Tensor, "n c"], count: int, seed: int) -> Float[Tensor, "k c"]:
    """Return the means of clusters, largest first, by Lloyd's iterations from k-means++ (Arthur, Vassilvitskii 2007).

    Sums are float64, so their order does not change the result to the precision of float32.
    """
    means = _first_means(vectors, count, seed)
    for _ in range(ITERATIONS):
        sums, sizes = _sums(vectors, means)
        updated = torch.where(sizes[:, None] > 0, sums / sizes[:, None].clamp(min=1), means.double()).to(means)
        if torch.equal(updated, means):
            break
        means = updated
    return means[_sums(vectors, means)[1].argsort(descending=True, stable=True)]


def _first_means(vectors: Float[Tensor, "n c"], count: int, seed: int) -> Float[Tensor, "k c"]:
    """Return vectors that lie far from one another; where there are too few different ones, the first again."""
    shares = torch.rand(count, generator=generator(seed, "k-means"), dtype=torch.float64).to(vectors.device)
    chosen = [vectors[int(shares[0] * len(vectors))]]
    distance = torch.full((len(vectors),), torch.inf, dtype=torch.float64, device=vectors.device)
    for share in shares[1:]:
        distance = torch.minimum(distance, ((vectors - chosen[-1]) ** 2).sum(1).double())
        total = distance.cumsum(0)
        position = int(torch.searchsorted(total, share * total[-1], right=True)) if total[-1] > 0 else 0
        chosen.append(vectors[min(position, len(vectors) - 1)] if total[-1] > 0 else chosen[0])
    return torch.stack(chosen)


def _sums(vectors: Float[Tensor, "n c"], means: Float[Tensor, "k c"]) -> tuple[Tensor, Int[Tensor, " k"]]:
    """Return sum and number of the vectors of each cluster."""
    nearest = _nearest(vectors, means)
    sums = torch.zeros(means.shape, dtype=torch.float64, device=means.device)
    return sums.index_add_(0, nearest, vectors.double()), nearest.bincount(minlength=len(means))


def _nearest(vectors: Float[Tensor, "n c"], means: Float[Tensor, "k c"]) -> Int[Tensor, " n"]:
    norms = (means**2).sum(1)
    return torch.cat([(norms - 2 * part @ means.T).argmin(1) for part in vectors.split(CHUNK)])
