"""Randomness belongs to the sample: data order, augmentation, noise and timesteps by key."""

import hashlib
from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import Sampler


def seed_of(*key: int | str) -> int:
    """A 63-bit seed for a key such as (seed, "noise", sample id, step): equal on every machine and rank."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def generator(*key: int | str) -> torch.Generator:
    """A CPU generator that no other key shares."""
    return torch.Generator().manual_seed(seed_of(*key))


def normal(shape: tuple[int, ...], keys: list[tuple]) -> Float[Tensor, "b ..."]:
    """Standard normal noise (b, *shape), row i from keys[i] alone: a row does not depend on its batch."""
    return torch.stack([torch.randn(shape, generator=generator(*key)) for key in keys])


def uniform(keys: list[tuple]) -> Float[Tensor, " b"]:
    """One number in [0, 1) per key."""
    return torch.cat([torch.rand(1, generator=generator(*key)) for key in keys])


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
