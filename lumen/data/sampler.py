"""Resumable sampler of training images, equal for every number of ranks."""

from collections.abc import Iterator

import torch
from torch.utils.data import Sampler

from lumen.core.random import generator


class Stream(Sampler):
    """An endless shuffled pass over a data set, cut into batches that every world size sees alike.

    Position p of the stream is image `permutation(epoch)[p % n]` with epoch = p // n. Micro-batch t
    of all ranks together is positions [t*B*W, (t+1)*B*W), rank r taking the r-th block of B; so the
    images of an optimiser step depend on the product batch x ranks x accumulate alone.

    Yields (index, epoch): with the epoch as its key, a second look at an image is augmented anew.
    """

    def __init__(self, images: int, batch: int, batches: int, seed: int, rank: int = 0, world: int = 1):
        self.images, self.batch, self.batches, self.seed = images, batch, batches, seed
        self.rank, self.world = rank, world
        self.start = 0  # micro-batches already seen; set before iterating to continue a run

    def __len__(self) -> int:
        return self.batches * self.batch

    def __iter__(self) -> Iterator[tuple[int, int]]:
        epoch, order = -1, None
        for t in range(self.start, self.batches):
            first = (t * self.world + self.rank) * self.batch
            for position in range(first, first + self.batch):
                if position // self.images != epoch:
                    epoch = position // self.images
                    order = torch.randperm(self.images, generator=generator(self.seed, "order", epoch))
                yield int(order[position % self.images]), epoch
