"""Streaming moments: count, mean and covariance of vectors in float64, summed over ranks."""

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor


class Moments:
    """Count, mean and scatter matrix of vectors, accumulated in float64 without storing the vectors.

    The scatter matrix is the sum of (x - mean)(x - mean)ᵀ. Two groups of vectors with counts n and m, and with means
    that differ by d, merge into one with the scatter matrix S_n + S_m + d dᵀ n m / (n + m). Products are taken about
    the mean, so a large mean cancels no digits.

    Args:
        channels: Length c of the vectors.

    Source: Chan, Golub and LeVeque 1979, "Updating formulae and a pairwise algorithm for computing sample variances".
    """

    def __init__(self, channels: int, device: torch.device | str = "cpu"):
        self.count = 0
        self.mean = torch.zeros(channels, dtype=torch.float64, device=device)
        self.scatter = torch.zeros(channels, channels, dtype=torch.float64, device=device)

    def update(self, vectors: Float[Tensor, "n c"]) -> None:
        """Add vectors."""
        vectors = vectors.to(self.mean)
        mean = vectors.mean(0)
        centred = vectors - mean
        self.merge(len(vectors), mean, _gram_matrix(centred))

    def merge(self, count: int, mean: Float[Tensor, " c"], scatter: Float[Tensor, "c c"]) -> None:
        """Add the moments of further vectors."""
        if count == 0:
            return
        total = self.count + count
        difference = mean - self.mean
        self.scatter += scatter + torch.outer(difference, difference) * (self.count * count / total)
        self.mean += difference * (count / total)
        self.count = total

    def covariance(self) -> Float[Tensor, "c c"]:
        """Return the unbiased covariance, divided by count - 1 as in numpy.cov and sklearn."""
        return self.scatter / (self.count - 1)

    def all_reduce(self) -> None:
        """Merge the moments of all ranks. The order is that of the ranks, so every rank holds the same bits."""
        if not (dist.is_available() and dist.is_initialized()):
            return
        own = self.pack()
        packed = [torch.empty_like(own) for _ in range(dist.get_world_size())]
        dist.all_gather(packed, own)
        self.__init__(len(self.mean), self.mean.device)
        for of_rank in packed:
            self.merge_packed(of_rank)

    def pack(self) -> Float[Tensor, " n"]:
        """Return count, mean and scatter matrix as one tensor of 1 + c + c² numbers."""
        return torch.cat([self.mean.new_tensor([self.count]), self.mean, self.scatter.flatten()])

    def merge_packed(self, packed: Float[Tensor, " n"]) -> "Moments":
        """Add moments that `pack` returned, and return self."""
        c = len(self.mean)
        count, mean, scatter = packed.to(self.mean).split([1, c, c * c])
        self.merge(int(count), mean, scatter.view(c, c))
        return self


def _gram_matrix(vectors: Float[Tensor, "n c"]) -> Float[Tensor, "c c"]:
    if vectors.device.type != "cpu":
        return vectors.T @ vectors
    array = vectors.numpy()
    return torch.from_numpy(array.T @ array)  # numpy computes one triangle of a symmetric product
