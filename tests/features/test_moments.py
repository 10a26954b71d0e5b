"""Feature moments against numpy, over ranks, and at the native resolution of several maps."""

from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist

from lumen.core.resize import resize
from lumen.features.joint_moments import joint_moments
from lumen.features.moments import Moments
from lumen.features.pca import principal_axes

N, C = 600, 24


@pytest.fixture(scope="module")
def vectors():
    """Correlated vectors whose mean is far from zero, where a naive sum of squares loses its digits."""
    rng = np.random.default_rng(0)
    return rng.normal(size=(N, C)) @ rng.normal(size=(C, C)) * np.geomspace(1, 0.05, C) + 1000.0


def test_moments_equal_numpys(vectors):
    moments = Moments(C)
    for chunk in np.array_split(vectors, 7):
        moments.update(torch.from_numpy(chunk))
    assert moments.count == N
    assert np.allclose(moments.mean, vectors.mean(0), rtol=1e-13)
    assert np.allclose(moments.covariance(), np.cov(vectors.T), rtol=1e-9, atol=1e-12)


def test_moments_survive_packing(vectors):
    first, second, whole = Moments(C), Moments(C), Moments(C)
    first.update(torch.from_numpy(vectors[:200]))
    second.update(torch.from_numpy(vectors[200:]))
    whole.update(torch.from_numpy(vectors))
    merged = Moments(C).merge_packed(first.pack()).merge_packed(second.pack())
    assert merged.count == N and len(first.pack()) == 1 + C + C * C
    assert torch.allclose(merged.mean, whole.mean, rtol=1e-13)
    assert torch.allclose(merged.covariance(), whole.covariance(), rtol=1e-9)


def run_rank(rank: int, chunks: list[torch.Tensor], directory: Path) -> None:
    """Accumulate every second chunk in one of two processes."""
    dist.init_process_group("gloo", init_method=f"file://{directory}/rendezvous", rank=rank, world_size=2)
    moments = Moments(4)
    for chunk in chunks[rank::2]:
        moments.update(chunk)
    moments.all_reduce()
    torch.save({"count": moments.count, "mean": moments.mean, "cov": moments.covariance()}, directory / str(rank))
    dist.destroy_process_group()  # an exit with gloo's threads still running can abort


def test_moments_are_merged_over_ranks(tmp_path):
    chunks = list(torch.randn(4, 50, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))
    ranks = [get_context("fork").Process(target=run_rank, args=(rank, chunks, tmp_path)) for rank in range(2)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(120)
    assert [rank.exitcode for rank in ranks] == [0, 0]
    first, second = (torch.load(tmp_path / str(rank), weights_only=True) for rank in range(2))
    single = Moments(4)
    for chunk in chunks:
        single.update(chunk)
    assert first["count"] == single.count == 200
    assert torch.equal(first["cov"], second["cov"]) and torch.equal(first["mean"], second["mean"])
    assert torch.allclose(first["cov"], single.covariance(), rtol=1e-12)


MAP_SIZES = {
    "doubling": [(4, 5), (8, 10), (16, 20)],
    "no whole multiples": [(5, 7), (8, 9), (13, 15)],
    "equal": [(6, 6), (6, 6)],
    "single map": [(7, 5)],
    "shrinking": [(12, 18), (4, 5), (8, 9)],
    "shrinking in one direction": [(4, 18), (8, 9)],
}


@pytest.mark.parametrize("sizes", MAP_SIZES.values(), ids=MAP_SIZES)
def test_joint_moments_equal_those_of_resized_maps(sizes):
    rng = torch.Generator().manual_seed(0)
    batches = [
        [torch.randn(b, 3 + i, *size, generator=rng).double() * (i + 1) + 5 for i, size in enumerate(sizes)]
        for b in (3, 2)
    ]
    native, explicit = (Moments(sum(3 + i for i in range(len(sizes)))) for _ in range(2))
    for maps in batches:
        native.merge(*joint_moments(maps))
        resized = torch.cat([resize(m, maps[-1].shape[-2:]) for m in maps], dim=1)
        explicit.update(resized.movedim(1, -1).flatten(0, 2))
    assert native.count == explicit.count == 5 * sizes[-1][0] * sizes[-1][1]
    assert torch.allclose(native.mean, explicit.mean, rtol=1e-12)
    result, expected = native.covariance(), explicit.covariance()
    assert (result - expected).norm() < 1e-12 * expected.norm()
    assert torch.allclose(principal_axes(result, 2)[0], principal_axes(expected, 2)[0], atol=1e-10)
