"""Randomness belongs to the sample: data order, augmentation, noise and timesteps by key."""

import hashlib

import torch
from jaxtyping import Float
from torch import Tensor


def stable_seed(*key: int | str) -> int:
    """A 63-bit seed for a key such as (seed, "noise", sample id, step): equal on every machine and rank."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def generator(*key: int | str) -> torch.Generator:
    """A CPU generator that no other key shares."""
    return torch.Generator().manual_seed(stable_seed(*key))


def keyed_normal(shape: tuple[int, ...], keys: list[tuple]) -> Float[Tensor, "b ..."]:
    """Standard normal noise (b, *shape), row i from keys[i] alone: a row does not depend on its batch."""
    return torch.stack([torch.randn(shape, generator=generator(*key)) for key in keys])


def keyed_uniform(keys: list[tuple]) -> Float[Tensor, " b"]:
    """One number in [0, 1) per key."""
    return torch.cat([torch.rand(1, generator=generator(*key)) for key in keys])
