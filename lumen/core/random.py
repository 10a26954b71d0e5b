"""Keyed random numbers: noise, augmentations and data order as functions of (seed, sample id, step)."""

import hashlib

import torch
from jaxtyping import Float
from torch import Tensor


def stable_seed(*key: int | str) -> int:
    """Return a 63-bit seed for a key such as (seed, "noise", sample id, step). It is the same on every machine."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def generator(*key: int | str) -> torch.Generator:
    """Return a CPU generator that is seeded by a key."""
    return torch.Generator().manual_seed(stable_seed(*key))


def keyed_normal(shape: tuple[int, ...], keys: list[tuple]) -> Float[Tensor, "b ..."]:
    """Return standard normal noise (b, *shape). Each row depends on its own key alone, not on its batch."""
    return torch.stack([torch.randn(shape, generator=generator(*key)) for key in keys])


def keyed_uniform(keys: list[tuple]) -> Float[Tensor, " b"]:
    """Return one uniform number in [0, 1) per key."""
    return torch.cat([torch.rand(1, generator=generator(*key)) for key in keys])
