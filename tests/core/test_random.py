"""Randomness by sample: the same images and noise on 1, 2 and 4 ranks, continued or not."""

import pytest
import torch

from lumen.core.random import generator, keyed_normal, keyed_uniform
from lumen.data.sampler import Stream


def steps_of(world: int, batch: int, batches: int, start: int = 0) -> list[list]:
    """What all ranks together see in each micro-batch."""
    ranks = []
    for rank in range(world):
        stream = Stream(7, batch, batches, seed=3, rank=rank, world=world)
        stream.start = start
        keys = list(stream)
        ranks.append([keys[i : i + batch] for i in range(0, len(keys), batch)])
    return [sum(parts, []) for parts in zip(*ranks, strict=True)]


@pytest.mark.parametrize("world", [2, 4])
def test_every_world_size_sees_the_same_images(world):
    assert steps_of(world, 4 // world, 10) == steps_of(1, 4, 10)


def test_a_stream_goes_on_where_it_stopped():
    assert steps_of(2, 2, 10)[6:] == steps_of(2, 2, 10, start=6)


def test_every_epoch_shows_every_image_once_in_a_new_order():
    keys = sum(steps_of(1, 2, 7), [])
    first, second = ([i for i, epoch in keys if epoch == e] for e in (0, 1))
    assert sorted(first) == sorted(second) == list(range(7)) and first != second


def test_a_row_of_noise_depends_on_its_key_alone():
    keys = [(0, "a", 5), (0, "b", 5), (1, "a", 5), (0, "a", 6)]
    noise = keyed_normal((2, 3), keys)
    assert torch.equal(noise[1], keyed_normal((2, 3), keys[1:2])[0])
    assert len({tuple(row.flatten().tolist()) for row in noise}) == 4
    assert len(set(keyed_uniform(keys).tolist())) == 4


def test_keys_do_not_run_together():
    draws = [torch.rand(1, generator=generator(*key)).item() for key in [(1, 23), (12, 3), ("1", 23), (1, "23")]]
    assert len(set(draws)) == 4


def test_noise_is_standard_normal_and_uniform_is_uniform():
    many = keyed_normal((8,), [(i,) for i in range(4000)])
    assert many.mean().abs() < 0.02 and (many.std() - 1).abs() < 0.02
    assert (keyed_uniform([(i,) for i in range(4000)]).mean() - 0.5).abs() < 0.02
