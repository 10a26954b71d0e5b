"""Networks of timm against timm's own features, and the mistakes that a user may make with their names and weights."""

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.data import resolve_model_data_config
from timm.models import register_model
from torch.utils.flop_counter import FlopCounterMode
from torchvision.transforms.functional import normalize

from lumen.core.errors import BadConfig, BadSize, Note, UnknownName, WeightsMissing
from lumen.core.registry import backbones

NAMED = ["dinov3", "siglip2", "pe", "mae", "eva02", "sam", "radio", "convnext"]
WITH_FACETS = [name for name in NAMED if "facet" in backbones.arguments(name)]


def perturb(network):
    """Add noise to all parameters: an untrained LayerScale of 1e-5 or a bias of 0 would hide mistakes."""
    generator = torch.Generator().manual_seed(3)
    for parameter in network.parameters():
        parameter.data += 0.2 * torch.randn(parameter.shape, generator=generator)
    return network


def build_tiny(name, **arguments):
    backbone = backbones.build(name, size="tiny", weights="none", **arguments)
    perturb(backbone.net)
    return backbone


def random_images(backbone, height=112, width=224):
    """Return images in [-1, 1], and the same normalised as the network's card says."""
    image = torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(1))
    card = resolve_model_data_config(backbone.net)
    return image * 2 - 1, normalize(image, card["mean"], card["std"])


def assert_close(result, expected):
    torch.testing.assert_close(result, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", NAMED)
@torch.no_grad()
def test_tokens_equal_forward_intermediates(name):
    backbone = build_tiny(name)
    image, normalised = random_images(backbone)
    (expected,) = backbone.net.forward_intermediates(
        normalised, indices=[2 if name == "convnext" else 3], norm=True, intermediates_only=True
    )
    assert_close(backbone.features(image), expected)
    if name not in ("sam", "convnext"):  # the last block under the norm is the network's own result
        tokens = backbone.net.forward_features(normalised)[:, backbone.net.num_prefix_tokens :]
        assert_close(backbone.features(image).flatten(2).mT, tokens)
    if name == "sam":
        assert_close(backbone.features(image), backbone.net.forward_features(normalised))


@pytest.mark.parametrize("facet", ["key", "value"])
@pytest.mark.parametrize("name", WITH_FACETS)
@torch.no_grad()
def test_keys_and_values_are_those_that_the_attention_uses(name, facet, monkeypatch):
    backbone = build_tiny(name, layer=[1, 3], facet=facet)
    image, normalised = random_images(backbone)
    captured, attend = {"key": [], "value": []}, torch.nn.functional.scaled_dot_product_attention

    def record(query, key, value, *args, **kwargs):
        captured["key"].append(key)
        captured["value"].append(value)
        return attend(query, key, value, *args, **kwargs)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", record)
    for block in backbone.net.blocks:  # keys before they are rotated
        block.attn.fused_attn = True
        block.attn.k_norm.register_forward_hook(lambda module, inputs, output: captured["key"].append(inputs[0]))
    backbone.net.forward_features(normalised)
    seen = captured[facet] if facet == "value" else captured["key"][::2]  # each key is met before and after rotation
    cells = [side // backbone.stride for side in image.shape[-2:]]
    patches = [seen[i].transpose(1, 2).flatten(2)[:, backbone.net.num_prefix_tokens :] for i in (1, 3)]
    expected = torch.cat([tokens.mT.unflatten(2, cells) for tokens in patches], 1)
    for block in backbone.net.blocks:
        block.attn.k_norm._forward_hooks.clear()
    assert_close(backbone.features(image), expected)


@pytest.mark.parametrize("name", ["siglip2", "dinov3", "sam", "convnext"])
def test_backbone_costs_what_its_network_costs_up_to_the_layer(name):
    backbone = backbones.build(name, size="tiny", weights="none", layer=[0, 1])
    image = torch.zeros(1, 3, 64, 64)
    with FlopCounterMode(display=False) as ours:
        backbone.feature_maps(image)
    network = backbone.net
    with FlopCounterMode(display=False) as whole:
        network.forward_features(image)
    network.prune_intermediate_layers([0, 1], prune_norm=True)
    with FlopCounterMode(display=False) as pruned:
        network.forward_intermediates(image, indices=[0, 1], norm=False, intermediates_only=True)
    assert ours.get_total_flops() == pruned.get_total_flops() < whole.get_total_flops()


@pytest.mark.parametrize(
    ("name", "arguments", "channels", "stride", "parameters"),
    [
        pytest.param("dinov3", {"size": "small"}, 384, 16, 21.6, marks=pytest.mark.long),
        ("dinov3", {"size": "base"}, 768, 16, 85.6),
        pytest.param("dinov3", {"size": "large"}, 1024, 16, 303.1, marks=pytest.mark.long),
        ("siglip2", {"size": "base"}, 768, 16, 92.9),
        pytest.param("siglip2", {"size": "so400m", "resolution": 384}, 1152, 16, 428.3, marks=pytest.mark.long),
        ("pe", {"size": "base", "variant": "core"}, 768, 16, 92.9),
        pytest.param("pe", {"size": "large"}, 1024, 14, 303.9, marks=pytest.mark.long),
        ("mae", {"size": "base"}, 768, 16, 85.8),
        pytest.param("mae", {"size": "huge"}, 1280, 14, 630.8, marks=pytest.mark.long),
        ("eva02", {"size": "base"}, 768, 14, 85.8),
        pytest.param("eva02", {"size": "large"}, 1024, 14, 303.3, marks=pytest.mark.long),
        ("sam", {"size": "base"}, 256, 16, 89.7),
        pytest.param("sam", {"size": "base", "layer": [2, 5]}, 1536, 16, 89.7, marks=pytest.mark.long),
        ("radio", {"size": "base"}, 768, 16, 86.5),
        ("convnext", {"size": "base"}, 512, 16, 87.6),
        pytest.param("convnext", {"size": "base", "layer": [0, 1, 2, 3]}, 1920, 4, 87.6, marks=pytest.mark.long),
    ],
)
def test_architectures_are_the_published_ones(name, arguments, channels, stride, parameters):
    with torch.device("meta"):
        backbone = backbones.build(name, weights="none", **arguments)
        maps = backbone.feature_maps(torch.empty(1, 3, 448, 448))
    assert sum(features.shape[1] for features in maps) == backbone.channels == channels
    assert backbone.stride == stride and maps[-1].shape[-1] == 448 // stride
    assert sum(parameter.numel() for parameter in backbone.net.parameters()) / 1e6 == pytest.approx(parameters, abs=0.1)


@torch.no_grad()
def test_any_network_of_timm_yields_its_stages_coarse_to_fine():
    backbone = backbones.build("timm", model="test_resnet", weights="none", layer=[1, 3])
    image, normalised = random_images(backbone, 64, 96)
    fine, coarse = backbone.net.forward_intermediates(normalised, indices=[1, 3], intermediates_only=True)
    for result, expected in zip(backbone.feature_maps(image), (coarse, fine), strict=True):
        assert_close(result, expected)
    assert backbone.stride == 4 and backbone.step == 16


def test_network_of_one_size_has_its_images_resized():
    backbone = backbones.build("timm", model="test_vit_relpos", weights="none")
    assert backbone.features(torch.zeros(1, 3, 64, 96)).shape == (1, backbone.channels, 10, 10)
    strict = backbones.build("timm", model="test_vit_relpos", weights="none", fit=False)
    assert strict.features(torch.zeros(1, 3, 160, 160)).isfinite().all()
    with pytest.raises(BadSize, match="timm .* 160 x 160 .*not 64 x 96"):
        strict.features(torch.zeros(1, 3, 64, 96))


def test_weights_of_a_file_are_taken_by_name_or_in_order(tmp_path):
    network = perturb(timm.create_model("test_resnet")).eval()
    image = torch.rand(1, 3, 64, 64) * 2 - 1
    (expected,) = network.forward_intermediates(
        normalize((image + 1) / 2, (0.5,) * 3, (0.5,) * 3), indices=[2], intermediates_only=True
    )
    state = network.state_dict()
    save_file(state, tmp_path / "named.safetensors")
    torch.save({"state_dict": {f"module{i}": state[key] for i, key in enumerate(state)}}, tmp_path / "other.pth")

    def build(file, model="test_resnet"):
        return backbones.build("timm", model=model, layer=2, weights=str(tmp_path / file))

    assert_close(build("named.safetensors").features(image), expected)
    with pytest.warns(Note, match="tensors were taken in timm's order"):
        assert_close(build("other.pth").features(image), expected)
    with pytest.raises(WeightsMissing, match="test_vit .*other.pth"):
        build("other.pth", "test_vit")
    state["fc.weight"] = state["fc.weight"][:10]
    torch.save({f"module{i}": state[key] for i, key in enumerate(state)}, tmp_path / "cut.pth")
    with pytest.raises(WeightsMissing, match="fc.weight in its place"):
        build("cut.pth")
    (tmp_path / "broken.pth").write_bytes(b"none")
    torch.save(["no", "state"], tmp_path / "list.pth")
    for file in ("broken.pth", "list.pth"):
        with pytest.raises(WeightsMissing, match=f"test_resnet .*{file}"):
            build(file)


def test_folder_of_another_model_is_refused(tmp_path):
    timm.models.save_for_hf(timm.create_model("test_resnet"), tmp_path, safe_serialization=True)
    assert backbones.build("timm", model="test_resnet", weights=str(tmp_path)).channels == 96
    with pytest.raises(WeightsMissing, match="test_resnet, not test_vit"):
        backbones.build("timm", model="test_vit", weights=str(tmp_path))
    with pytest.raises(WeightsMissing, match="ResNet, not its Eva"):
        backbones.build("dinov3", weights=str(tmp_path))


def test_names_that_timm_does_not_know_are_corrected():
    for model, nearest in [
        ("vit_base_patch16_sigclip_512", "vit_base_patch16_siglip_512"),
        ("vit_base_patch16_224.mea", "vit_base_patch16_224.mae"),
    ]:
        with pytest.raises(UnknownName, match=f"did you mean '{nearest}'"):
            backbones.build("timm", model=model)
    for model in ("hf-hub:someone/model", "local-dir:/etc"):
        with pytest.raises(UnknownName):
            backbones.build("timm", model=model, weights="none")


def test_networks_that_cannot_be_used_are_refused():
    @register_model
    def test_mapless(pretrained=False, **options):
        network = torch.nn.Linear(1, 1)
        network.pretrained_cfg = {"architecture": "test_mapless"}
        return network

    with pytest.raises(BadConfig, match="test_mapless yields no feature maps"):
        backbones.build("timm", model="test_mapless", weights="none")
    with pytest.raises(BadConfig, match="ResNet has no keys"):
        backbones.build("timm", model="test_resnet", weights="none", facet="key")
    with pytest.raises(WeightsMissing, match="on the hub; .* weights=none"):  # timm has a link alone
        backbones.build("timm", model="vit_huge_patch14_gap_224.in1k_ijepa")
