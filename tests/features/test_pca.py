"""Principal axes against sklearn, the projection against its definition, and the basis file."""

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from lumen.core.errors import BasisMismatch
from lumen.core.resize import resize
from lumen.features.pca import BASIS_TENSORS, Basis, gather_vectors, principal_axes, project

N, C, K = 600, 24, 6


@pytest.fixture(scope="module")
def vectors():
    """Correlated vectors whose mean is far from zero."""
    rng = np.random.default_rng(0)
    return rng.normal(size=(N, C)) @ rng.normal(size=(C, C)) * np.geomspace(1, 0.05, C) + 1000.0


@pytest.fixture(scope="module")
def covariance(vectors):
    return torch.from_numpy(np.cov(vectors.T))


@pytest.fixture(scope="module")
def maps():
    """Feature maps of three resolutions, 24 channels in all."""
    rng = torch.Generator().manual_seed(0)
    return [torch.randn(2, c, s, s + 1, generator=rng) for c, s in ((12, 4), (8, 8), (4, 16))]


def joint_feature(maps):
    return torch.cat([resize(m, maps[-1].shape[-2:]) for m in maps], dim=1)


def test_axes_equal_sklearns_up_to_the_sign_rule(vectors, covariance):
    axes, variance = principal_axes(covariance, K)
    reference = PCA(K, svd_solver="covariance_eigh").fit(vectors)
    signs = np.sign(reference.components_[range(K), np.abs(reference.components_).argmax(1)])
    assert np.allclose(axes.T, reference.components_ * signs[:, None], atol=1e-6)
    assert np.allclose(variance, reference.explained_variance_, rtol=1e-6)
    assert (axes.gather(0, axes.abs().argmax(0, keepdim=True)) > 0).all()


def test_axes_do_not_depend_on_the_sign_of_a_solver(covariance):
    order = torch.randperm(C, generator=torch.Generator().manual_seed(0))
    permuted, _ = principal_axes(covariance[order][:, order], K)
    axes, _ = principal_axes(covariance, K)
    assert torch.allclose(permuted, axes[order], atol=1e-9)


@pytest.mark.parametrize("k", [0, C + 1])
def test_axes_are_at_most_as_many_as_channels(k):
    with pytest.raises(ValueError, match=f"{k} components.* 1 to {C}"):
        principal_axes(torch.eye(C), k)


def test_projection_commutes_with_resizing(maps, covariance):
    axes, variance = (tensor.float() for tensor in principal_axes(covariance, K))
    mean = torch.randn(C, generator=torch.Generator().manual_seed(1))
    centred = joint_feature(maps) - mean[:, None, None]
    expected = torch.einsum("bchw,ck->bkhw", centred, axes) / variance.sqrt()[:, None, None]
    assert torch.allclose(project(maps, mean, axes, variance.sqrt()), expected, atol=1e-5)


def test_gathered_vectors_equal_those_of_the_joint_feature(maps):
    h, w = maps[-1].shape[-2:]
    cells = torch.stack([torch.randperm(h * w)[:50] for _ in range(2)])
    vectors = joint_feature(maps).flatten(2).transpose(1, 2)
    expected = torch.stack([v[c] for v, c in zip(vectors, cells, strict=True)]).flatten(0, 1)
    assert torch.allclose(gather_vectors(maps, cells), expected, atol=1e-5)


def test_basis_survives_its_file(tmp_path):
    basis = Basis(torch.randn(C), torch.randn(C, K), torch.rand(K), torch.rand(K), {"backbone": {"name": "dino"}})
    basis.save(tmp_path / "basis.safetensors")
    loaded = Basis.load(tmp_path / "basis.safetensors")
    assert all(torch.equal(getattr(basis, name), getattr(loaded, name)) for name in BASIS_TENSORS)
    assert loaded.metadata == basis.metadata
    loaded.verify({"name": "dino"}, "this basis")
    with pytest.raises(BasisMismatch, match=r"'dino'.*'clip'"):
        loaded.verify({"name": "clip"}, "this basis")


@pytest.mark.parametrize("content", [b"", b"x" * 100])
def test_basis_file_that_is_damaged_is_an_error(tmp_path, content):
    (tmp_path / "basis.safetensors").write_bytes(content)
    with pytest.raises(BasisMismatch, match="basis.safetensors"):
        Basis.load(tmp_path / "basis.safetensors")
