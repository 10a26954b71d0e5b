"""Count, mean and covariance of vectors, streamed in float64 and summed across ranks."""

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor


class Moments:
    """First and second moments of vectors seen so far, without keeping the vectors.

    Source: Chan, Golub, LeVeque 1979, "Updating formulae and a pairwise algorithm for computing
    sample variances": sums of squares about the mean, so nothing cancels when the mean is large.
    """

    def __init__(self, channels: int, device: torch.device | str = "cpu"):
        self.count = 0
        self.mean = torch.zeros(channels, dtype=torch.float64, device=device)
        self.scatter = torch.zeros(channels, channels, dtype=torch.float64, device=device)

    def update(self, vectors: Float[Tensor, "n c"]) -> None:
        vectors = vectors.to(self.mean)
        mean = vectors.mean(0)
        centred = vectors - mean
        self.add(len(vectors), mean, _products(centred))

    def covariance(self) -> Float[Tensor, "c c"]:
        """Unbiased, as numpy.cov and sklearn: divided by count - 1."""
        return self.scatter / (self.count - 1)

    def reduce(self) -> None:
        """Adds up the moments of all DDP ranks, in the order of the ranks, so that each holds the same bits."""
        if not (dist.is_available() and dist.is_initialized()):
            return
        mine = self.packed()
        shares = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
        dist.all_gather(shares, mine)
        self.__init__(len(self.mean), self.mean.device)
        for share in shares:
            self.unpack(share)

    def packed(self) -> Float[Tensor, " n"]:
        """All that is known, as 1 + c + c c numbers."""
        return torch.cat([self.mean.new_tensor([self.count]), self.mean, self.scatter.flatten()])

    def unpack(self, packed: Float[Tensor, " n"]) -> "Moments":
        """Itself, with what others have packed added to it."""
        c = len(self.mean)
        count, mean, scatter = packed.to(self.mean).split([1, c, c * c])
        self.add(int(count), mean, scatter.view(c, c))
        return self

    def add(self, count: int, mean: Float[Tensor, " c"], scatter: Float[Tensor, "c c"]) -> None:
        """Takes what is known of further vectors: how many, their mean, and sums of products about it."""
        if count == 0:
            return
        total = self.count + count
        apart = mean - self.mean
        self.scatter += scatter + torch.outer(apart, apart) * (self.count * count / total)
        self.mean += apart * (count / total)
        self.count = total


def _products(vectors: Float[Tensor, "n c"]) -> Float[Tensor, "c c"]:
    if vectors.device.type != "cpu":
        return vectors.T @ vectors
    numbers = vectors.numpy()
    return torch.from_numpy(numbers.T @ numbers)  # numpy works out x y and y x once
