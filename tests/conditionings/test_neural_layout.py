"""Neural layout: its fit against sklearn, its backbone, its files, and its determinism."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from torch.utils.flop_counter import FlopCounterMode

from lumen.core.errors import BadConfig, BasisMismatch
from lumen.core.registry import backbones, conditionings, datamodules
from lumen.data.datamodule import DataModule
from lumen.data.source import LoaderConfig
from lumen.features.pca import Basis, project
from lumen.features.pretrained import SCENES_WEIGHTS
from lumen.scenes.world import CLASSES


def build_layout(backbone, **arguments):
    return conditionings.build("neural_layout", **{"components": 5, **arguments}, backbone=backbone)


def fit_layout(backbone, batch, **arguments):
    layout = build_layout(backbone, **arguments)
    layout.fit([batch], len(batch.id), 0, "data")
    return layout


@pytest.fixture(scope="module")
def other_backbone():
    """The backbone of the tests with another facet."""
    return backbones.build("dino", size="tiny", patch=8, weights="none", facet="token")


@pytest.mark.parametrize("components", [1, 4, 5])
@pytest.mark.parametrize("scale", ["none", "global", "component"])
def test_layout_equals_sklearns_pca_of_the_features(backbone, batch, components, scale):
    layout = fit_layout(backbone, batch, components=components, scale=scale, vectors="all")
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
    assert len(layout.explained) == layout.axes.shape[1] and sum(layout.explained) == pytest.approx(1)


def nearest_mean_accuracy(backbone, scenes) -> float:
    """Return the accuracy of a nearest-mean classifier of cells, trained on one half of the scenes."""
    layout = build_layout(backbone, components=20, vectors="all")
    layout.fit([scenes], len(scenes.id), 0, "scenes")
    cells = layout(scenes).permute(0, 2, 3, 1)
    one_hot = torch.nn.functional.one_hot(scenes.mask, len(CLASSES)).float().permute(0, 3, 1, 2)
    share, label = torch.nn.functional.adaptive_avg_pool2d(one_hot, cells.shape[1:3]).max(1)
    half, pure = len(cells) // 2, share > 0.9
    train, test = (tuple(x[part][pure[part]] for x in (cells, label)) for part in (slice(half), slice(half, None)))
    means = torch.stack([train[0][train[1] == c].mean(0) for c in range(len(CLASSES))]).nan_to_num(torch.inf)
    return float((torch.cdist(test[0], means).argmin(1) == test[1]).float().mean())


@pytest.mark.parametrize("name", [name for name in backbones.names() if (SCENES_WEIGHTS / name).is_dir()])
def test_layout_of_a_trained_backbone_separates_classes(name):
    loader_config = LoaderConfig(size=64, batch_size=48, eval_images=48)
    scenes = next(iter(DataModule(datamodules.build("scenes", loader_config=loader_config)).test_dataloader()))
    assert nearest_mean_accuracy(backbones.build(name, weights="scenes"), scenes) > 0.6


def test_projection_fused_into_the_last_convolution_saves_operations(batch):
    backbone = backbones.build("sd", size="tiny", weights="none", reading="block")
    layout = fit_layout(backbone, batch, components=8)
    assert backbone.final_conv and backbones.build("sd", size="tiny", weights="none").final_conv is None
    with FlopCounterMode(display=False) as separate:
        expected = project(backbone.feature_maps(batch.image), layout.mean, layout.axes, layout.scale)
    with FlopCounterMode(display=False) as fused:
        code = layout.encode(batch)
    assert torch.allclose(code, expected, atol=1e-5 * float(expected.abs().max()))
    assert fused.get_total_flops() < separate.get_total_flops()
    assert [m.shape[1] for m in backbone.feature_maps(batch.image)] == list(backbone.map_channels)


def test_layout_fit_is_deterministic(backbone, batch):
    first, second = (fit_layout(backbone, batch, vectors=20, per_image=7) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first.buffers(), second.buffers(), strict=True))
    assert first.metadata["vectors"] == 21  # 7 from each of 3 images, the least that reaches 20


def test_layout_fit_does_not_depend_on_the_batches(backbone, batch):
    together = fit_layout(backbone, batch, vectors=12)
    separate = build_layout(backbone, vectors=12)
    batches = [replace(batch, image=batch.image[i : i + 1], caption=[""], id=[batch.id[i]]) for i in range(3)]
    separate.fit(batches, 3, 0, "data")
    assert torch.allclose(together.axes[:, :5], separate.axes[:, :5], atol=1e-5)  # 12 vectors span fewer than 20 axes


def test_basis_belongs_to_one_backbone_and_serves_fewer_components(backbone, other_backbone, batch, tmp_path):
    layout = fit_layout(backbone, batch)
    layout.save(tmp_path)
    path = tmp_path / "basis.safetensors"
    unscaled = fit_layout(backbone, batch, scale="none")(batch)
    loaded = build_layout(backbone, basis=str(path))
    assert loaded.fitted and torch.equal(loaded(batch), layout(batch))
    with pytest.raises(BasisMismatch, match=r"'facet': 'key'.*'facet': 'token'"):
        build_layout(other_backbone, basis=str(path))
    fewer = build_layout(backbone, components=4, scale="none", basis=str(path))
    assert torch.allclose(fewer(batch), unscaled[:, :4], atol=1e-6)
    with pytest.raises(BadConfig, match="20 .*21.*conditioning.components=20"):
        build_layout(backbone, components=21, basis=str(path))


def test_basis_has_the_channels_of_its_backbone(backbone, batch):
    basis = fit_layout(backbone, batch).basis
    shorter = replace(basis, mean=basis.mean[:20], axes=torch.eye(20))
    with pytest.raises(BasisMismatch, match="20 channels, and its backbone 32"):
        build_layout(backbone).set_basis(shorter, "this basis")


def test_checkpoint_holds_the_basis_of_its_backbone(backbone, other_backbone, batch):
    state = fit_layout(backbone, batch).state_dict()
    loaded = build_layout(backbone)
    assert not loaded.fitted
    loaded.load_state_dict(state)
    assert loaded.fitted and loaded.metadata["backbone"] == backbone.identity
    with pytest.raises(BasisMismatch, match="checkpoint"):
        build_layout(other_backbone).load_state_dict(state)


def test_basis_file_is_small_and_holds_its_origin(backbone, batch, tmp_path):
    fit_layout(backbone, batch).save(tmp_path)
    metadata = Basis.load(tmp_path / "basis.safetensors").metadata
    assert (tmp_path / "basis.safetensors").stat().st_size < 8192
    assert metadata.keys() == {"backbone", "components", "vectors", "seed", "data", "explained"}
    assert {"name", "layer", "weights"} <= metadata["backbone"].keys()


@pytest.mark.parametrize("components", [0, 33])
def test_components_are_at_most_as_many_as_channels(backbone, components):
    with pytest.raises(BadConfig, match=f"components={components} .*32"):
        build_layout(backbone, components=components)


def test_backbone_of_a_layout_is_neither_trained_nor_saved(backbone):
    layout = build_layout(backbone).train()
    assert not list(layout.parameters()) and not layout.backbone.training
    assert not any("backbone" in name for name in layout.state_dict())
