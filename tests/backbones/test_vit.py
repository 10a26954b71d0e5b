"""DINO and DINOv2 against timm's own features, by its public calls and by explicit hooks."""

import pytest
import timm
import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch.nn.functional import interpolate
from torchvision.transforms.functional import normalize

from lumen.core.errors import BadConfig, WeightsMissing
from lumen.core.registry import backbones
from lumen.features.timm_loading import TINY_CONFIG

VARIANTS = [
    ("dino", {"patch": 16}, "vit_small_patch16_224.dino"),
    ("dino", {"patch": 8}, "vit_small_patch8_224.dino"),
    ("dinov2", {"registers": False}, "vit_small_patch14_dinov2.lvd142m"),
    ("dinov2", {"registers": True}, "vit_small_patch14_reg4_dinov2.lvd142m"),
]


def perturb(network):
    """Add noise to all parameters: an untrained LayerScale of 1e-5 or a bias of 0 would hide mistakes."""
    generator = torch.Generator().manual_seed(3)
    for parameter in network.parameters():
        parameter.data += 0.2 * torch.randn(parameter.shape, generator=generator)
    return network


def build_pair(name, arguments, architecture, **options):
    """Return a backbone and timm's network with the same weights."""
    backbone = backbones.build(name, size="tiny", weights="none", **arguments, **options)
    perturb(backbone.net)
    network = timm.create_model(architecture, num_classes=0, dynamic_img_size=True, **TINY_CONFIG).eval()
    network.load_state_dict(backbone.net.state_dict())
    return backbone, network


def random_images(height, width):
    """Return images in [-1, 1], and the same normalised for ImageNet networks."""
    image = torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(1))
    return image * 2 - 1, normalize(image, IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)


def assert_close(result, expected):
    torch.testing.assert_close(result, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("sides", [(112, 112), (112, 336)])
@pytest.mark.parametrize("layer", [-1, 0, [1, -1]])
@pytest.mark.parametrize(("name", "arguments", "architecture"), VARIANTS)
@torch.no_grad()
def test_tokens_equal_forward_intermediates(name, arguments, architecture, layer, sides):
    backbone, network = build_pair(name, arguments, architecture, layer=layer, facet="token")
    image, normalised = random_images(*sides)
    indices = [index % 4 for index in ([layer] if isinstance(layer, int) else layer)]
    expected = network.forward_intermediates(normalised, indices=indices, norm=True, intermediates_only=True)
    assert_close(backbone.features(image), torch.cat(expected, 1))
    if layer == -1:  # x_norm_patchtokens of the official code
        tokens = network.forward_features(normalised)[:, network.num_prefix_tokens :]
        assert_close(backbone.features(image).flatten(2).mT, tokens)


@pytest.mark.parametrize("sides", [(112, 112), (112, 336)])
@pytest.mark.parametrize("facet", ["key", "value"])
@pytest.mark.parametrize(("name", "arguments", "architecture"), VARIANTS)
@torch.no_grad()
def test_keys_and_values_equal_those_of_the_attention(name, arguments, architecture, facet, sides):
    backbone, network = build_pair(name, arguments, architecture, layer=[1, 3], facet=facet)
    image, normalised = random_images(*sides)
    outputs = []
    for index in (1, 3):
        network.blocks[index].attn.qkv.register_forward_hook(lambda m, i, out: outputs.append(out))
    network(normalised)
    cells = [side // backbone.stride for side in sides]
    expected = []
    for qkv in outputs:  # b n (3 heads d), read as timm's attention does
        heads = qkv.reshape(2, -1, 3, TINY_CONFIG["num_heads"], 16).permute(2, 0, 3, 1, 4)[
            ("query", "key", "value").index(facet)
        ]
        tokens = heads.transpose(1, 2).flatten(2)[:, network.num_prefix_tokens :]
        expected.append(tokens.mT.unflatten(2, cells))
    assert_close(backbone.features(image), torch.cat(expected, 1))
    assert not any(module._forward_hooks for module in backbone.modules())


@pytest.mark.parametrize(("sides", "resized_sides"), [((512, 512), (518, 518)), ((117, 240), (112, 238))])
@torch.no_grad()
def test_images_are_resized_to_the_nearest_multiple_of_the_patch(sides, resized_sides):
    backbone, network = build_pair(*VARIANTS[2])
    image, _ = random_images(*sides)
    resized = interpolate(image, resized_sides, mode="bilinear", antialias=True)
    normalised = normalize((resized + 1) / 2, IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
    (expected,) = network.forward_intermediates(normalised, indices=[3], norm=True, intermediates_only=True)
    assert expected.shape[-2:] == (resized_sides[0] // 14, resized_sides[1] // 14)
    assert_close(backbone.features(image), expected)


@pytest.mark.parametrize(("name", "arguments", "architecture"), VARIANTS)
def test_vit_loads_the_network_of_a_folder(name, arguments, architecture, tmp_path):
    backbone, network = build_pair(name, arguments, architecture)
    timm.models.save_for_hf(network, tmp_path, model_args=TINY_CONFIG, safe_serialization=True)
    loaded = backbones.build(name, weights=str(tmp_path))  # without a size: the folder has its own
    image, _ = random_images(112, 112)
    assert torch.equal(loaded.features(image), backbone.features(image))
    assert loaded.identity == backbone.identity
    (tmp_path / "model.safetensors").write_bytes(b"truncated")
    with pytest.raises(WeightsMissing, match=name):
        backbones.build(name, weights=str(tmp_path))
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(WeightsMissing, match=name):
        backbones.build(name, weights=str(tmp_path))


def test_weights_of_a_hub_id_are_read_from_the_hub_cache_at_their_revision(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    backbone, network = build_pair(*VARIANTS[0])
    commit = "0123456789abcdef0123456789abcdef01234567"
    snapshot = tmp_path / "models--timm--vit_base_patch16_224.dino" / "snapshots" / commit
    snapshot.mkdir(parents=True)
    timm.models.save_for_hf(network, snapshot, model_args=TINY_CONFIG, safe_serialization=True)
    assert backbones.build("dino", revision=commit).identity == backbone.identity
    with pytest.raises(WeightsMissing, match="hf download"):
        backbones.build("dino", revision="f" * 40)


def test_weights_called_scenes_are_those_of_the_package(tmp_path, monkeypatch):
    monkeypatch.setattr("lumen.features.pretrained.SCENES_WEIGHTS", tmp_path)
    with pytest.raises(WeightsMissing, match="scenes has no small dino"):
        backbones.build("dino", weights="scenes")
    backbone, network = build_pair(*VARIANTS[0])
    timm.models.save_for_hf(network, tmp_path / "dino", model_args=TINY_CONFIG, safe_serialization=True)
    assert backbones.build("dino", weights="scenes").identity == backbone.identity


def test_layers_that_do_not_exist_are_an_error():
    with pytest.raises(BadConfig, match="dino .*0 to 3 .*not 4"):
        backbones.build("dino", size="tiny", weights="none", layer=4)
    with pytest.raises(BadConfig, match="dino .*0 to 3"):
        backbones.build("dino", size="tiny", weights="none", layer=[])


def parameter_names(depth, layer_scale):
    """Return the names of the official checkpoints (facebookresearch/dino and dinov2)."""
    parts = ["norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2"]
    modules = ["patch_embed.proj", "norm", *(f"blocks.{i}.{part}" for i in range(depth) for part in parts)]
    scales = [f"blocks.{i}.ls{n}.gamma" for i in range(depth) for n in (1, 2)] if layer_scale else []
    return {"cls_token", "pos_embed", *scales, *(f"{m}.{p}" for m in modules for p in ("weight", "bias"))}


@pytest.mark.parametrize(
    ("name", "arguments", "depth", "width", "stride", "positions", "parameters"),
    [
        ("dino", {"size": "base", "patch": 8}, 12, 768, 8, 785, 85_807_872),
        ("dino", {"size": "base", "patch": 16}, 12, 768, 16, 197, 85_798_656),
        ("dino", {"size": "small", "patch": 8}, 12, 384, 8, 785, 21_670_272),
        ("dinov2", {"size": "base"}, 12, 768, 14, 1370, 86_580_480),
        ("dinov2", {"size": "large"}, 24, 1024, 14, 1370, 304_368_640),
    ],
)
def test_vit_architectures_are_the_published_ones(name, arguments, depth, width, stride, positions, parameters):
    with torch.device("meta"):
        backbone = backbones.build(name, weights="none", **arguments)
        features = backbone.features(torch.empty(1, 3, 512, 512))
    cells = round(512 / stride)
    assert features.shape == (1, width, cells, cells) and backbone.stride == stride and backbone.channels == width
    state = backbone.net.state_dict()
    assert set(state) == parameter_names(depth, layer_scale=name == "dinov2")
    assert state["pos_embed"].shape == (1, positions, width)
    assert state[f"blocks.{depth - 1}.attn.qkv.weight"].shape == (3 * width, width)
    # The official DINOv2 also has a mask_token, which only its training uses.
    unused = width if name == "dinov2" else 0
    assert sum(parameter.numel() for parameter in backbone.net.parameters()) + unused == parameters


@pytest.mark.parametrize(("size", "width"), [("small", 384), ("base", 768), ("large", 1024), ("giant", 1536)])
def test_registers_are_four_additional_tokens(size, width):
    with torch.device("meta"):
        backbone = backbones.build("dinov2", size=size, registers=True, weights="none")
    assert backbone.net.state_dict()["reg_token"].shape == (1, 4, width)
    assert backbone.net.num_prefix_tokens == 5
    assert backbone.net.state_dict()["pos_embed"].shape == (1, 1369, width)  # for patches alone
