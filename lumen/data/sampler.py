"""Resumable sampler of training images, equal for every number of ranks."""

from collections.abc import Iterator

import torch
from torch.utils.data import Sampler

from lumen.core.random import generator


class ResumableSampler(Sampler):
    """Endless shuffled passes over a data set, divided into batches that do not depend on the number of ranks.

    Position p of the order is image `permutation(epoch)[p % n]` with epoch = p // n. Micro-batch t of all W ranks
    together is positions [t*B*W, (t+1)*B*W) for batches of B images, and rank r takes the r-th block of B. So the
    images of an optimiser step depend only on the product batch x ranks x accumulate.

    Yields (index, epoch): an augmentation keyed by the epoch differs each time an image returns.

    Args:
        num_images: Images of the data set.
        batch_size: Images of a micro-batch on one rank.
        num_batches: Micro-batches of the whole run.
        seed: Seed of the order.
        rank: Rank of this process.
        world_size: Number of ranks.

    Attributes:
        start: Micro-batches to skip; set before iteration to resume a run.
    """

    def __init__(
        self, num_images: int, batch_size: int, num_batches: int, seed: int, rank: int = 0, world_size: int = 1
    ):
        self.num_images, self.batch_size, self.num_batches, self.seed = num_images, batch_size, num_batches, seed
        self.rank, self.world_size = rank, world_size
        self.start = 0

    def order_settings(self) -> dict[str, int]:
        """Return everything that the order depends on, by the keys that checkpoints use."""
        return {"images": self.num_images, "batch": self.batch_size, "seed": self.seed, "world": self.world_size}

    def __len__(self) -> int:
        return self.num_batches * self.batch_size

    def __iter__(self) -> Iterator[tuple[int, int]]:
        epoch, order = -1, None
        for t in range(self.start, self.num_batches):
            first = (t * self.world_size + self.rank) * self.batch_size
            for position in range(first, first + self.batch_size):
                if position // self.num_images != epoch:
                    epoch = position // self.num_images
                    order = torch.randperm(self.num_images, generator=generator(self.seed, "order", epoch))
                yield int(order[position % self.num_images]), epoch
