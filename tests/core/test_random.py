"""Keyed random numbers: every value depends on its key alone."""

import torch

from lumen.core.random import generator, keyed_normal, keyed_uniform


def test_random_row_depends_on_its_key_alone():
    keys = [(0, "a", 5), (0, "b", 5), (1, "a", 5), (0, "a", 6)]
    noise = keyed_normal((2, 3), keys)
    assert torch.equal(noise[1], keyed_normal((2, 3), keys[1:2])[0])
    assert len({tuple(row.flatten().tolist()) for row in noise}) == 4
    assert len(set(keyed_uniform(keys).tolist())) == 4


def test_random_keys_are_not_joined():
    keys = [(1, 23), (12, 3), ("1", 23), (1, "23")]
    assert len({torch.rand(1, generator=generator(*key)).item() for key in keys}) == 4


def test_random_distributions_are_normal_and_uniform():
    noise = keyed_normal((8,), [(i,) for i in range(4000)])
    assert noise.mean().abs() < 0.02 and (noise.std() - 1).abs() < 0.02
    assert (keyed_uniform([(i,) for i in range(4000)]).mean() - 0.5).abs() < 0.02
