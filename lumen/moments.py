"""Count, mean and covariance of vectors, streamed, added up in float64 and summed across ranks."""

from collections.abc import Callable

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor

BLOCK = 4  # vectors per channel that are multiplied at once
SLICE = 256  # vectors that stay in a processor's cache between two products


class Moments:
    """First and second moments of vectors seen so far, without keeping more than a few per channel.

    Vectors wait until there are four per channel. They are then centred and multiplied in their own precision, and
    the product is added in float64: of fp32 that moves a covariance by 1e-7 of its norm, as the rounding of the vectors
    themselves does, and takes half the time. Blocks are of one length, so it does not matter in which batches the
    vectors came.

    Source: Chan, Golub, LeVeque 1979, "Updating formulae and a pairwise algorithm for computing
    sample variances": sums of squares about the mean, so nothing cancels when the mean is large.
    """

    def __init__(self, channels: int, device: torch.device | str = "cpu"):
        self.channels = channels
        self._added = 0  # vectors that are in the mean and the scatter
        self._mean = torch.zeros(channels, dtype=torch.float64, device=device)
        self._scatter = torch.zeros(channels, channels, dtype=torch.float64, device=device)
        self._waiting: list[Tensor] = []

    @property
    def count(self) -> int:
        return self._added + sum(map(len, self._waiting))

    @property
    def mean(self) -> Float[Tensor, " c"]:
        if not self._waiting:
            return self._mean
        waiting = self._vectors()
        return self._mean + (waiting.mean(0, dtype=torch.float64) - self._mean) * (len(waiting) / self.count)

    @property
    def few(self) -> bool:
        """Whether all vectors still wait."""
        return not self._added

    def covariance(self) -> Float[Tensor, "c c"]:
        """Unbiased, as numpy.cov and sklearn: divided by count - 1."""
        self._settle()
        return self._scatter / (self.count - 1)

    def update(self, vectors: Float[Tensor, "n c"]) -> None:
        """Takes vectors, which must not be changed afterwards."""
        self._waiting.append(vectors)
        length = BLOCK * self.channels
        if self.count - self._added > length:
            *full, rest = self._vectors().split(length)
            self._waiting = [rest]
            for block in full:
                self.add(len(block), *_products(block))

    def add(self, count: int, mean: Float[Tensor, " c"], scatter: Float[Tensor, "c c"]) -> None:
        """Takes what is known of further vectors: how many, their mean, and sums of products about it."""
        if count == 0:
            return
        total = self._added + count
        apart = mean - self._mean
        self._scatter.add_(scatter).addr_(apart, apart, alpha=self._added * count / total)
        self._mean += apart * (count / total)
        self._added = total

    def times(self) -> Callable[[Tensor], Tensor]:
        """What multiplies (c, m) by the covariance of few vectors, which is not worked out."""
        _, centred = _centred(self._vectors())

        def product(other: Float[Tensor, "c m"]) -> Float[Tensor, "c m"]:
            narrow, total = other.to(centred), torch.zeros_like(other)
            for some in centred.split(SLICE):
                total += some.T @ (some @ narrow)
            return total / (self.count - 1)

        return product

    def variance(self) -> Float[Tensor, ""]:
        """The trace of the covariance."""
        if not self.few:
            return self.covariance().trace()
        _, centred = _centred(self._vectors())
        return torch.linalg.vector_norm(centred, dtype=torch.float64) ** 2 / (self.count - 1)

    def reduce(self) -> None:
        """Adds up the moments of all DDP ranks, in the order of the ranks, so that each holds the same bits."""
        if not (dist.is_available() and dist.is_initialized()):
            return
        self._settle()
        mine = torch.cat([self._mean.new_tensor([self._added]), self._mean, self._scatter.flatten()])
        shares = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
        dist.all_gather(shares, mine)
        c = self.channels
        self.__init__(c, self._mean.device)
        for share in shares:
            count, mean, scatter = share.split([1, c, c * c])
            self.add(int(count), mean, scatter.view(c, c))

    def _settle(self) -> None:
        """Leaves no vector waiting."""
        if self._waiting:
            block, self._waiting = self._vectors(), []
            self.add(len(block), *_products(block))

    def _vectors(self) -> Float[Tensor, "n c"]:
        """Those that wait."""
        if len(self._waiting) > 1:
            self._waiting = [torch.cat(self._waiting)]
        return self._waiting[0]


def _centred(vectors: Float[Tensor, "n c"]) -> tuple[Float[Tensor, " c"], Float[Tensor, "n c"]]:
    """Their mean, and what they differ from it by."""
    mean = vectors.mean(0)
    return mean, vectors - mean


def _products(vectors: Float[Tensor, "n c"]) -> tuple[Float[Tensor, " c"], Float[Tensor, "c c"]]:
    """Their mean and sums of products about it."""
    mean, centred = _centred(vectors)
    if centred.device.type != "cpu":
        return mean, centred.T @ centred
    numbers = centred.numpy()  # numpy works out x y and y x once
    return mean, torch.from_numpy(numbers.T @ numbers)
