"""Moments and principal axes against numpy and sklearn; the projection against the naive order."""

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from lumen.core.errors import BasisMismatch
from lumen.core.resize import resize
from lumen.features.joint_moments import joint_moments
from lumen.features.moments import Moments
from lumen.features.pca import Basis, gather_vectors, principal_axes, project

N, C, K = 600, 24, 6


@pytest.fixture(scope="module")
def vectors():
    """Correlated, with a mean far from zero: where a naive sum of squares loses its digits."""
    rng = np.random.default_rng(0)
    return rng.normal(size=(N, C)) @ rng.normal(size=(C, C)) * np.geomspace(1, 0.05, C) + 1000.0


def streamed(vectors, parts=7):
    moments = Moments(C)
    for part in np.array_split(vectors, parts):
        moments.update(torch.from_numpy(part))
    return moments


def test_moments_are_numpys(vectors):
    moments = streamed(vectors)
    assert moments.count == N
    assert np.allclose(moments.mean, vectors.mean(0), rtol=1e-13)
    assert np.allclose(moments.covariance(), np.cov(vectors.T), rtol=1e-9, atol=1e-12)


def test_axes_are_sklearns_up_to_the_sign_rule(vectors):
    axes, variance = principal_axes(streamed(vectors).covariance(), K)
    reference = PCA(K, svd_solver="covariance_eigh").fit(vectors)
    signs = np.sign(reference.components_[range(K), np.abs(reference.components_).argmax(1)])
    assert np.allclose(axes.T, reference.components_ * signs[:, None], atol=1e-6)
    assert np.allclose(variance, reference.explained_variance_, rtol=1e-6)
    assert (axes.gather(0, axes.abs().argmax(0, keepdim=True)) > 0).all()


def test_axes_do_not_depend_on_the_sign_of_a_solver(vectors):
    covariance = streamed(vectors).covariance()
    order = torch.randperm(C, generator=torch.Generator().manual_seed(0))
    there, _ = principal_axes(covariance[order][:, order], K)
    here, _ = principal_axes(covariance, K)
    assert torch.allclose(there, here[order], atol=1e-9)


@pytest.mark.parametrize("k", [0, C + 1])
def test_no_more_axes_than_channels(k):
    with pytest.raises(ValueError, match=f"{k} components"):
        principal_axes(torch.eye(C), k)


@pytest.fixture(scope="module")
def maps():
    draw = torch.Generator().manual_seed(0)
    return [torch.randn(2, c, s, s + 1, generator=draw) for c, s in ((12, 4), (8, 8), (4, 16))]


def naive(maps):
    return torch.cat([resize(m, maps[-1].shape[-2:]) for m in maps], dim=1)


def test_project_then_resize_is_resize_then_project(maps, vectors):
    axes, variance = (part.float() for part in principal_axes(streamed(vectors).covariance(), K))
    mean = torch.randn(C, generator=torch.Generator().manual_seed(1))
    joint = naive(maps) - mean[:, None, None]
    expected = torch.einsum("bchw,ck->bkhw", joint, axes) / variance.sqrt()[:, None, None]
    assert torch.allclose(project(maps, mean, axes, variance.sqrt()), expected, atol=1e-5)


def test_vectors_at_cells_are_those_of_the_joint_map(maps):
    h, w = maps[-1].shape[-2:]
    cells = torch.stack([torch.randperm(h * w)[:50] for _ in range(2)])
    expected = naive(maps).flatten(2).transpose(1, 2)
    expected = torch.stack([e[c] for e, c in zip(expected, cells, strict=True)]).flatten(0, 1)
    assert torch.allclose(gather_vectors(maps, cells), expected, atol=1e-5)


SIZES = {
    "finer and finer": [(4, 5), (8, 10), (16, 20)],
    "no whole multiples": [(5, 7), (8, 9), (13, 15)],
    "of one size": [(6, 6), (6, 6)],
    "one map": [(7, 5)],
    "one is shrunk": [(12, 18), (4, 5), (8, 9)],
    "shrunk in one direction": [(4, 18), (8, 9)],
}


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_the_covariance_at_native_resolution_is_that_of_the_joint_features(sizes):
    draw = torch.Generator().manual_seed(0)
    batches = [
        [torch.randn(b, 3 + i, *size, generator=draw).double() * (i + 1) + 5 for i, size in enumerate(sizes)]
        for b in (3, 2)
    ]
    native, explicit = (Moments(sum(3 + i for i in range(len(sizes)))) for _ in range(2))
    for maps in batches:
        native.merge(*joint_moments(maps))
        explicit.update(naive(maps).movedim(1, -1).flatten(0, 2))
    assert native.count == explicit.count == 5 * sizes[-1][0] * sizes[-1][1]
    assert torch.allclose(native.mean, explicit.mean, rtol=1e-12)
    found, expected = native.covariance(), explicit.covariance()
    assert (found - expected).norm() < 1e-12 * expected.norm()
    assert torch.allclose(principal_axes(found, 2)[0], principal_axes(expected, 2)[0], atol=1e-10)


def test_a_basis_comes_back_whole_from_its_file(tmp_path):
    basis = Basis(torch.randn(C), torch.randn(C, K), torch.rand(K), torch.rand(K), {"backbone": {"name": "dino"}})
    basis.save(tmp_path / "basis.safetensors")
    again = Basis.load(tmp_path / "basis.safetensors")
    assert all(torch.equal(getattr(basis, n), getattr(again, n)) for n in ("mean", "axes", "variance", "scale"))
    assert again.metadata == basis.metadata
    again.verify({"name": "dino"}, "it")
    with pytest.raises(BasisMismatch, match=r"'dino'.*'clip'"):
        again.verify({"name": "clip"}, "it")


@pytest.mark.parametrize("content", [b"", b"x" * 100])
def test_what_is_no_basis_is_refused(tmp_path, content):
    (tmp_path / "basis.safetensors").write_bytes(content)
    with pytest.raises(BasisMismatch, match="is not a layout basis"):
        Basis.load(tmp_path / "basis.safetensors")
