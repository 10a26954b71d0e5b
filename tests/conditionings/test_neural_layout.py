"""The neural layout end to end: fitted as sklearn fits it, bound to its backbone, the same bits every time."""

from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from sklearn.decomposition import PCA
from torch.utils.flop_counter import FlopCounterMode

from lumen.core.errors import BadConfig, BasisMismatch
from lumen.core.registry import backbones, conditionings, datamodules
from lumen.data.datamodule import Loading
from lumen.features.moments import Moments
from lumen.features.pca import Basis, project
from lumen.scenes.world import CLASSES


def make(backbone, **arguments):
    return conditionings.build("neural_layout", **{"components": 5, **arguments}, backbone=backbone)


def fitted(backbone, batch, **arguments):
    layout = make(backbone, **arguments)
    layout.fit([batch], len(batch.id), 0, "data")
    return layout


@pytest.mark.parametrize("components", [1, 4, 5])
@pytest.mark.parametrize("scale", ["none", "global", "component"])
def test_it_is_sklearns_pca_of_the_features(backbone, batch, components, scale):
    layout = fitted(backbone, batch, components=components, scale=scale, vectors="all")
    features = backbone.features(batch.image).double().numpy().transpose(0, 2, 3, 1)
    reference = PCA(components, svd_solver="covariance_eigh").fit(features.reshape(-1, backbone.channels))
    expected = reference.transform(features.reshape(-1, backbone.channels)).reshape(*features.shape[:3], components)
    signs = np.sign(reference.components_[range(components), np.abs(reference.components_).argmax(1)])
    divisor = {
        "none": 1.0,
        "global": np.sqrt(reference.explained_variance_.mean()),
        "component": np.sqrt(reference.explained_variance_),
    }[scale]
    assert np.allclose(layout(batch).permute(0, 2, 3, 1), expected * signs / divisor, atol=1e-4)
    explained = layout.summary_metrics()["layout/explained_variance"]
    assert explained == pytest.approx(reference.explained_variance_ratio_.sum(), rel=1e-6)


def known(backbone, scenes) -> float:
    """How many cells of half of the scenes lie nearest, in the layout, to the mean of their own class in the others."""
    layout = make(backbone, components=20, vectors="all")
    layout.fit([scenes], len(scenes.id), 0, "scenes")
    cells = layout(scenes).permute(0, 2, 3, 1)
    shares = torch.nn.functional.one_hot(scenes.mask, len(CLASSES)).float().permute(0, 3, 1, 2)
    share, label = torch.nn.functional.adaptive_avg_pool2d(shares, cells.shape[1:3]).max(1)
    half, pure = len(cells) // 2, share > 0.9
    taught, asked = ((x[:half][pure[:half]], x[half:][pure[half:]]) for x in (cells, label))
    means = torch.stack([taught[0][asked[0] == c].mean(0) for c in range(len(CLASSES))]).nan_to_num(torch.inf)
    return float((torch.cdist(taught[1], means).argmin(1) == asked[1]).float().mean())


@pytest.mark.parametrize("name", backbones.names())
def test_a_trained_layout_separates_the_classes_of_the_scenes(name):
    loading = Loading(size=64, batch=48, measured=48)
    scenes = next(iter(datamodules.build("scenes", loading=loading).test_dataloader()))
    assert known(backbones.build(name, weights="scenes"), scenes) > 0.6


def test_a_projection_joins_the_convolution_before_it(batch):
    """Layers as they leave their blocks, the finest from a convolution: fewer operations, the same answer."""
    backbone = backbones.build("sd", size="tiny", weights="none", reading="block")
    layout = fitted(backbone, batch, components=8)
    assert backbone.final_conv and backbones.build("sd", size="tiny", weights="none").final_conv is None
    with FlopCounterMode(display=False) as plain:
        expected = project(backbone.feature_maps(batch.image), layout.mean, layout.axes, layout.scale)
    with FlopCounterMode(display=False) as folded:
        found = layout.encode(batch)
    assert torch.allclose(found, expected, atol=1e-5 * float(expected.abs().max()))
    assert folded.get_total_flops() < plain.get_total_flops()
    assert [m.shape[1] for m in backbone.feature_maps(batch.image)] == list(backbone.map_channels)


def test_two_fits_give_the_same_bits(backbone, batch):
    one, two = (fitted(backbone, batch, vectors=20, per_image=7) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one.buffers(), two.buffers(), strict=True))
    assert one.metadata["vectors"] == 21  # 7 from each of 3 images, the least that reaches 20


def test_the_cells_looked_at_do_not_depend_on_the_batch(backbone, batch):
    whole = fitted(backbone, batch, vectors=12)
    parts = make(backbone, vectors=12)
    single = [replace(batch, image=batch.image[i : i + 1], caption=[""], id=[batch.id[i]]) for i in range(3)]
    parts.fit(single, 3, 0, "data")
    assert torch.allclose(whole.axes[:, :5], parts.axes[:, :5], atol=1e-5)  # 12 vectors have no twenty axes


def test_a_basis_serves_its_own_backbone_only(backbone, batch, tmp_path):
    path = tmp_path / "basis.safetensors"
    layout = fitted(backbone, batch)
    layout.basis().save(path)
    full = fitted(backbone, batch, scale="none")(batch)
    again = make(backbone, basis=str(path))
    assert again.fitted and torch.equal(again(batch), layout(batch))
    with pytest.raises(BasisMismatch, match=r"'facet': 'key'.*'facet': 'token'"):
        other = backbones.build("dino", size="tiny", patch=8, weights="none", facet="token")
        make(other, basis=str(path))
    assert torch.allclose(make(backbone, components=4, scale="none", basis=str(path))(batch), full[:, :4], atol=1e-6)
    with pytest.raises(BadConfig, match="has 20 components"):
        make(backbone, components=21, basis=str(path))


def test_a_checkpoint_brings_its_basis_to_its_own_backbone_only(backbone, batch):
    saved = fitted(backbone, batch).state_dict()
    again = make(backbone)
    assert not again.fitted
    again.load_state_dict(saved)
    assert again.fitted and again.metadata["backbone"] == backbone.identity
    with pytest.raises(BasisMismatch, match="the basis in this checkpoint"):
        make(backbones.build("dino", size="tiny", patch=8, weights="none", facet="token")).load_state_dict(saved)


@pytest.mark.parametrize("components", [0, 33])
def test_as_many_components_as_there_are_channels(backbone, components):
    with pytest.raises(BadConfig, match="has 32 channels"):
        make(backbone, components=components)


def test_the_frozen_backbone_is_no_part_of_what_is_trained_or_saved(backbone):
    layout = make(backbone).train()
    assert not list(layout.parameters()) and not layout.backbone.training
    assert not any("backbone" in name for name in layout.state_dict())


def rank_of_two(rank: int, parts: list[torch.Tensor], folder: Path) -> None:
    """One of two processes that look at half of the parts each."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    moments = Moments(4)
    for part in parts[rank::2]:
        moments.update(part)
    moments.all_reduce()
    torch.save({"count": moments.count, "mean": moments.mean, "cov": moments.covariance()}, folder / str(rank))
    dist.destroy_process_group()  # an exit with gloo's threads still running can abort


def test_ranks_add_up_their_moments(tmp_path):
    parts = list(torch.randn(4, 50, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))
    ranks = [get_context("fork").Process(target=rank_of_two, args=(rank, parts, tmp_path)) for rank in range(2)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(120)
    assert [rank.exitcode for rank in ranks] == [0, 0]
    zero, one = (torch.load(tmp_path / str(rank), weights_only=True) for rank in range(2))
    alone = Moments(4)
    for part in parts:
        alone.update(part)
    assert zero["count"] == alone.count == 200
    assert torch.equal(zero["cov"], one["cov"]) and torch.equal(zero["mean"], one["mean"])
    assert torch.allclose(zero["cov"], alone.covariance(), rtol=1e-12)


def test_a_basis_file_is_small_and_says_what_it_is(backbone, batch, tmp_path):
    fitted(backbone, batch).basis().save(tmp_path / "basis.safetensors")
    metadata = Basis.load(tmp_path / "basis.safetensors").metadata
    assert (tmp_path / "basis.safetensors").stat().st_size < 8192
    wanted = {"backbone", "components", "vectors", "seed", "data", "explained"}
    assert metadata.keys() == wanted and {"name", "layer", "weights"} <= metadata["backbone"].keys()
