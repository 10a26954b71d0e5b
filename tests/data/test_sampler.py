"""Resumable sampler: the same images on 1, 2 and 4 ranks, resumed or not."""

import pytest

from lumen.data.sampler import ResumableSampler


def micro_batches(world_size: int, batch: int, batches: int, start: int = 0) -> list[list]:
    """Return the keys of all ranks together in each micro-batch."""
    ranks = []
    for rank in range(world_size):
        sampler = ResumableSampler(7, batch, batches, seed=3, rank=rank, world_size=world_size)
        sampler.start = start
        keys = list(sampler)
        ranks.append([keys[i : i + batch] for i in range(0, len(keys), batch)])
    return [sum(parts, []) for parts in zip(*ranks, strict=True)]


@pytest.mark.parametrize("world_size", [2, 4])
def test_sampler_does_not_depend_on_the_number_of_ranks(world_size):
    assert micro_batches(world_size, 4 // world_size, 10) == micro_batches(1, 4, 10)


def test_sampler_resumes_at_a_batch():
    assert micro_batches(2, 2, 10)[6:] == micro_batches(2, 2, 10, start=6)


def test_sampler_shuffles_every_epoch_anew():
    keys = sum(micro_batches(1, 2, 7), [])
    first, second = ([image for image, epoch in keys if epoch == number] for number in (0, 1))
    assert sorted(first) == sorted(second) == list(range(7)) and first != second
