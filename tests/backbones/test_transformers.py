"""Networks of transformers against the library's own outputs, and the models that are refused."""

import json

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from torchvision.transforms.functional import normalize
from transformers import (
    BertConfig,
    ConvNextV2Config,
    DepthAnythingConfig,
    Dinov2Config,
    Dinov2Model,
    SiglipConfig,
    VJEPA2Config,
)

from lumen.core.errors import BadConfig, BadSize, WeightsMissing
from lumen.core.registry import backbones

SMALL = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 64}
IMAGE = {"patch_size": 16, "image_size": 64}
DINOV2 = Dinov2Config(**SMALL, **IMAGE)
VJEPA = {f"pred_{key}": value for key, value in {**SMALL, "hidden_size": 24}.items() if key != "intermediate_size"}
VJEPA2 = VJEPA2Config(**{**SMALL, "hidden_size": 24}, **VJEPA, patch_size=16, crop_size=64, frames_per_clip=4)
TEXT = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 16, "vocab_size": 64}
DEPTH = {"reassemble_hidden_size": 32, "neck_hidden_sizes": [8, 8, 8], "fusion_hidden_size": 8, "patch_size": 16}
DEPTH["backbone_config"] = Dinov2Config(
    **SMALL, **IMAGE, out_features=["stage1", "stage2", "stage3"], reshape_hidden_states=False
)
CONFIGS = {  # and the shape of the features of an image of 64 x 96 pixels
    "image": (DINOV2, (32, 4, 6)),
    "video": (VJEPA2, (24, 4, 4)),
    "image and text": (SiglipConfig(vision_config=SMALL | IMAGE, text_config=TEXT), (32, 4, 6)),
    "depth": (DepthAnythingConfig(**DEPTH, reassemble_factors=[4, 2, 1]), (32, 4, 6)),
    "convolutions": (ConvNextV2Config(hidden_sizes=[8, 16, 24, 32], depths=[1] * 4), (32, 2, 3)),
}


def write_model(directory, config, **others):
    (directory / "config.json").write_text(json.dumps({**config.to_dict(), **others}, default=str))
    return {"model": str(directory), "weights": "none"}


@pytest.fixture
def image():
    return torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.mark.parametrize("kind", CONFIGS)
def test_models_of_every_kind_yield_maps(kind, image, tmp_path):
    config, shape = CONFIGS[kind]
    source = write_model(tmp_path, config)
    backbone = backbones.build("transformers", **source)
    features = backbone.features(image)
    assert features.shape == (2, *shape) and backbone.channels == shape[0] and features.isfinite().all()
    assert torch.equal(backbones.build("transformers", **source).features(image), features)
    assert backbones.build("transformers", **source, layer=[0, 1]).identity != backbone.identity
    if kind != "convolutions":
        assert backbones.build("transformers", **source, facet="key").features(image).shape == features.shape
    with torch.device("meta"):
        assert backbones.build("transformers", **source).channels == shape[0]


@torch.no_grad()
def test_features_of_a_folder_are_the_states_of_its_network(image, tmp_path):
    network = Dinov2Model(DINOV2).eval()
    for parameter in network.parameters():
        parameter.data += 0.2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3))
    network.half().save_pretrained(tmp_path)  # read in full precision all the same
    network.float()
    card = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(card))
    states = network(normalize((image + 1) / 2, *card.values()), output_hidden_states=True).hidden_states
    expected = network.layernorm(torch.cat([states[1], states[3]]))[:, 1:].mT.unflatten(2, (4, 6)).chunk(2)
    backbone = backbones.build("transformers", model=str(tmp_path), layer=[0, 2])
    torch.testing.assert_close(backbone.features(image), torch.cat(expected, 1), atol=1e-5, rtol=1e-5)
    (tmp_path / "model.safetensors").write_bytes(b"truncated")
    with pytest.raises(WeightsMissing, match="transformers"):
        backbones.build("transformers", model=str(tmp_path))


def test_later_layers_are_not_computed(image, tmp_path):
    source = write_model(tmp_path, DINOV2)
    flops = []
    for layer in (0, 1, 2):
        with FlopCounterMode(display=False) as counter:
            backbones.build("transformers", **source, layer=layer).feature_maps(image)
        flops.append(counter.get_total_flops())
    assert flops[0] < flops[1] < flops[2] and flops[2] - flops[1] == flops[1] - flops[0]


def test_videos_of_one_size_are_resized_or_refused(image, tmp_path):
    source = write_model(tmp_path, VJEPA2)
    with pytest.raises(BadSize, match="64 x 64 .*not 64 x 96"):
        backbones.build("transformers", **source, fit=False).features(image)


@pytest.mark.parametrize(
    ("config", "others", "message"),
    [
        (DINOV2, {"model_type": "new", "auto_map": {"AutoModel": "code.New"}}, "code of its own, which is never run"),
        (DINOV2, {"model_type": "new"}, "no class in transformers"),
        (BertConfig(**TEXT), {}, "no maps of images"),
        (ConvNextV2Config(hidden_sizes=[8, 8, 8, 8], depths=[1] * 4), {"facet": "key"}, "has no keys"),
    ],
)
def test_models_that_cannot_be_used_are_refused(config, others, message, tmp_path):
    (tmp_path / "code.py").write_text("raise SystemExit('this code ran')")
    facet = others.pop("facet", "token")
    with pytest.raises(BadConfig, match=message):
        backbones.build("transformers", **write_model(tmp_path, config, **others), facet=facet)


def test_missing_models_are_an_error_that_says_how_to_get_them(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    for weights in ("published", "none"):
        with pytest.raises(WeightsMissing, match="hf download some/model"):
            backbones.build("transformers", model="some/model", weights=weights)
    with pytest.raises(WeightsMissing, match="nowhere"):
        backbones.build("transformers", model="./nowhere")


@pytest.mark.parametrize(
    ("size", "channels", "stride"),
    [
        ("huge", 1280, 14),
        pytest.param("huge448", 1280, 16, marks=pytest.mark.long),
        pytest.param("giant", 1408, 16, marks=pytest.mark.long),
    ],
)
def test_ijepa_has_the_published_architecture(size, channels, stride):
    with torch.device("meta"):
        backbone = backbones.build("ijepa", size=size, weights="none")
        features = backbone.features(torch.empty(1, 3, 448, 448))
    assert features.shape == (1, channels, 448 // stride, 448 // stride)
    count = sum(parameter.numel() for parameter in backbone.net.parameters()) / 1e6
    assert count == pytest.approx({"huge": 630.8, "huge448": 631.5, "giant": 1011.1}[size], rel=0.01)
