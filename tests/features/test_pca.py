"""Principal axes against sklearn, the projection against its definition, and the basis file."""

import json
import os
import re

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from scipy.sparse.linalg import eigsh
from sklearn.decomposition import PCA

from lumen.core.errors import BasisMismatch
from lumen.core.resize import resize
from lumen.features import pca
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


@pytest.fixture
def lanczos_covariance(monkeypatch):
    """Covariance of so many channels that Lanczos' iteration is tried."""
    monkeypatch.setattr(pca, "LANCZOS_CHANNELS", 300)
    rng = np.random.default_rng(0)
    return torch.from_numpy(np.cov(rng.normal(size=(600, 300)) / np.arange(1, 301), rowvar=False))


def lapack_axes(covariance):
    values, vectors = np.linalg.eigh(covariance.numpy())
    return vectors[:, : -K - 1 : -1], values[: -K - 1 : -1]


def test_axes_of_many_channels_equal_lapacks(lanczos_covariance, monkeypatch):
    monkeypatch.setattr(pca, "eigh", None)
    axes, variance = principal_axes(lanczos_covariance, K)
    expected, expected_variance = lapack_axes(lanczos_covariance)
    cosines = (axes.numpy() * expected).sum(0)
    assert np.allclose(np.abs(cosines), 1, atol=1e-12) and np.allclose(variance, expected_variance, rtol=1e-12)
    assert torch.equal(axes, principal_axes(lanczos_covariance, K)[0])


def test_direction_that_lanczos_misses_is_found(lanczos_covariance, monkeypatch):
    monkeypatch.setattr(pca, "eigsh", lambda matrix, k, **_: [x[..., :-1] for x in eigsh(matrix, k + 1, which="LA")])
    _, variance = principal_axes(lanczos_covariance, K)
    assert np.allclose(variance, lapack_axes(lanczos_covariance)[1], rtol=1e-12)


def test_axes_without_variance_are_orthonormal(lanczos_covariance):
    covariance = torch.zeros_like(lanczos_covariance)
    covariance[0, 0] = 1
    axes, variance = principal_axes(covariance, K)
    assert torch.allclose(axes.T @ axes, torch.eye(K, dtype=torch.float64), atol=1e-9)
    assert variance.tolist() == [1] + [0] * (K - 1)


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


def whole_basis(**changes):
    """Return the tensors of a basis and its header; changes replace some of them."""
    tensors = {"mean": torch.randn(C), "axes": torch.linalg.qr(torch.randn(C, K)).Q, "scale": torch.ones(K)}
    tensors["variance"] = torch.arange(K, 0, -1).float()
    header = {"backbone": {"name": "dino"}, "explained": 0.9}
    return tensors | {k: v for k, v in changes.items() if k in BASIS_TENSORS}, changes.get("header", header)


def write_basis(path, tensors, header):
    text = header if isinstance(header, str) else json.dumps(header)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, {"lumen": text})


def test_basis_survives_its_file(tmp_path):
    tensors, header = whole_basis()
    basis = Basis(**tensors, metadata=header)
    basis.save(tmp_path / "basis.safetensors")
    loaded = Basis.load(tmp_path / "basis.safetensors")
    assert all(torch.equal(getattr(basis, name), getattr(loaded, name)) for name in BASIS_TENSORS)
    assert loaded.metadata == basis.metadata
    loaded.verify({"name": "dino"}, "this basis")
    with pytest.raises(BasisMismatch, match=r"'dino'.*'clip'"):
        loaded.verify({"name": "clip"}, "this basis")


@pytest.mark.parametrize("content", [b"", b"x" * 100, b"\xff" * 8, None])
def test_basis_file_that_is_damaged_is_an_error(tmp_path, content):
    path = tmp_path / "basis.safetensors"
    if content is None:
        os.mkfifo(path)
    else:
        path.write_bytes(content)
    for file in (path, tmp_path, tmp_path / "nothing", tmp_path / "a\0b"):
        with pytest.raises(BasisMismatch, match=re.escape(str(file))):
            Basis.load(file)


NAN = float("nan")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"axes": torch.eye(C, K)[:-3]}, "mean .* not float32 of"),
        ({"axes": torch.eye(C, K)[None]}, "axes have the shape"),
        ({"axes": torch.eye(C, C + 1)}, "axes have the shape"),
        ({"axes": torch.zeros(C, 0)}, "axes have the shape"),
        ({"axes": torch.zeros(C, K)}, "orthonormal"),
        ({"axes": 2 * torch.eye(C, K)}, "orthonormal"),
        ({"axes": NAN * torch.eye(C, K)}, "axes .* not finite"),
        ({"axes": torch.eye(C, K).double()}, "float64"),
        ({"mean": torch.zeros(C - 1)}, "mean"),
        ({"mean": torch.full((C,), torch.inf)}, "mean .* not finite"),
        ({"mean": torch.zeros(C, dtype=torch.long)}, "int64"),
        ({"variance": torch.ones(K + 1)}, "variance"),
        ({"variance": -torch.ones(K)}, "below zero"),
        ({"variance": torch.arange(K).float()}, "do not fall"),
        ({"scale": torch.zeros(K)}, "above zero"),
        ({"scale": torch.ones(())}, "scale"),
        ({"scale": torch.full((K,), NAN)}, "scale .* not finite"),
        ({"header": {}}, "backbone"),
        ({"header": []}, "no object"),
        ({"header": "x"}, "Expecting value"),
        ({"header": "[" * 100_000}, "recursion"),
        ({"header": {"backbone": "dino", "explained": 0.9}}, "backbone"),
        ({"header": {"backbone": {"name": ["dino"]}, "explained": 0.9}}, "backbone"),
        ({"header": {"backbone": {"name": "dino"}}}, "explained=None"),
        ({"header": {"backbone": {"name": "dino"}, "explained": 7}}, "explained=7"),
        ({"header": {"backbone": {"name": "dino"}, "explained": NAN}}, "explained=nan"),
        ({"header": {"backbone": {"name": "dino"}, "explained": "all"}}, "explained='all'"),
    ],
)
def test_basis_that_is_not_whole_is_refused(changes, words, tmp_path):
    write_basis(tmp_path / "basis.safetensors", *whole_basis(**changes))
    with pytest.raises(BasisMismatch, match=words):
        Basis.load(tmp_path / "basis.safetensors")


@pytest.mark.parametrize("name", BASIS_TENSORS)
def test_basis_without_a_tensor_is_refused(name, tmp_path):
    tensors, header = whole_basis()
    write_basis(tmp_path / "basis.safetensors", {k: v for k, v in tensors.items() if k != name}, header)
    with pytest.raises(BasisMismatch, match=name):
        Basis.load(tmp_path / "basis.safetensors")
