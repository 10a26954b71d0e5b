"""CLIP against open_clip's own features at the same size, and MaskCLIP against its definition."""

import json

import open_clip
import pytest
import torch
from open_clip.model import resize_pos_embed
from safetensors.torch import save_file
from torchvision.transforms.functional import normalize

from backbones.clip import TINY_CONFIG
from lumen.core.errors import WeightsMissing
from lumen.core.registry import backbones

SIZES = [(64, 64), (96, 96), (64, 128)]  # the first is the size of the position embeddings
ARCHITECTURE = "ViT-B-16-quickgelu"


def perturb(network):
    """Add noise to all parameters: an untrained bias of 0 would hide mistakes."""
    generator = torch.Generator().manual_seed(3)
    for parameter in network.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    return network


def build_tiny(**arguments):
    backbone = backbones.build("clip", size="tiny", weights="none", **arguments)
    perturb(backbone.net)
    return backbone


def reference_tower(backbone, sides):
    """Return open_clip's image tower for a size, with weights loaded as open_clip loads those of another size."""
    changes = {**TINY_CONFIG, "vision_cfg": {**TINY_CONFIG["vision_cfg"], "image_size": sides}}
    model = open_clip.CLIP(**{**open_clip.get_model_config(ARCHITECTURE), **changes}).eval()
    state = {**model.state_dict(), **{f"visual.{key}": value for key, value in backbone.net.state_dict().items()}}
    resize_pos_embed(state, model)
    model.load_state_dict(state)
    return model.visual


def random_images(sides):
    """Return images in [-1, 1], and the same normalised for CLIP."""
    image = torch.rand(2, 3, *sides, generator=torch.Generator().manual_seed(1))
    return image * 2 - 1, normalize(image, open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)


def assert_close(result, expected):
    torch.testing.assert_close(result, expected, atol=1e-5, rtol=1e-5)


def patch_map(tokens, sides):
    return tokens[:, 1:].mT.unflatten(2, [side // 16 for side in sides])


@pytest.mark.parametrize("sides", SIZES)
@pytest.mark.parametrize("layer", [-1, 0, [0, 2]])
@torch.no_grad()
def test_tokens_equal_forward_intermediates(layer, sides):
    backbone = build_tiny(layer=layer)
    image, normalised = random_images(sides)
    indices = [index % 3 for index in ([layer] if isinstance(layer, int) else layer)]
    tower = reference_tower(backbone, sides)
    expected = tower.forward_intermediates(normalised, indices=indices, normalize_intermediates=True)
    assert_close(backbone.features(image), torch.cat(expected["image_intermediates"], 1))


@pytest.mark.parametrize("sides", SIZES)
@pytest.mark.parametrize("facet", ["key", "value"])
@torch.no_grad()
def test_keys_and_values_equal_those_of_the_attention(facet, sides):
    backbone = build_tiny(layer=[0, 2], facet=facet)
    image, normalised = random_images(sides)
    network, calls = reference_tower(backbone, sides), []
    for index in (0, 2):
        attention = network.transformer.resblocks[index].attn
        attention.register_forward_pre_hook(lambda module, inputs: calls.append((module, inputs)))
    network.train()  # torch's fused path would skip the attention's own forward
    network(normalised)
    expected = []
    for attention, (query, key, value) in calls:
        projected = torch.nn.functional._in_projection_packed(
            query, key, value, attention.in_proj_weight, attention.in_proj_bias
        )
        expected.append(patch_map(projected[("query", "key", "value").index(facet)], sides))
    assert_close(backbone.features(image), torch.cat(expected, 1))


@pytest.mark.parametrize("sides", SIZES)
@torch.no_grad()
def test_maskclip_equals_a_last_block_whose_tokens_attend_to_themselves(sides):
    backbone = build_tiny(facet="maskclip")
    image, normalised = random_images(sides)
    network = reference_tower(backbone, sides)
    *earlier, last = network.transformer.resblocks
    x = network._embeds(normalised)
    for block in earlier:
        x = block(x)
    self_only = torch.full((x.shape[1],) * 2, -torch.inf).fill_diagonal_(0)
    expected = network.ln_post(last(x, attn_mask=self_only)) @ network.proj
    assert backbone.channels == TINY_CONFIG["embed_dim"]
    assert_close(backbone.features(image), patch_map(expected, sides))


def save_model(directory, **preprocess):
    """Write a tiny model as an open_clip folder and return it."""
    config = {**open_clip.get_model_config(ARCHITECTURE), **TINY_CONFIG}
    model = perturb(open_clip.CLIP(**config))
    content = {"model_cfg": config, "preprocess_cfg": preprocess}
    (directory / "open_clip_config.json").write_text(json.dumps(content))
    save_file(model.state_dict(), directory / "open_clip_model.safetensors")
    return model.eval()


@torch.no_grad()
def test_clip_loads_network_and_preprocessing_of_a_folder(tmp_path):
    mean, std = [0.5, 0.4, 0.3], [0.2, 0.3, 0.4]
    model = save_model(tmp_path, mean=mean, std=std)
    backbone = backbones.build("clip", weights=str(tmp_path))
    image = random_images((64, 64))[0]
    expected = model.visual.forward_intermediates(
        normalize((image + 1) / 2, mean, std), indices=[2], normalize_intermediates=True
    )
    assert_close(backbone.features(image), expected["image_intermediates"][0])
    (tmp_path / "open_clip_model.safetensors").unlink()
    with pytest.raises(WeightsMissing, match="clip"):  # open_clip itself would continue untrained
        backbones.build("clip", weights=str(tmp_path))


@pytest.mark.parametrize(
    ("size", "depth", "width", "projected", "stride", "positions", "parameters"),
    [
        ("base", 12, 768, 512, 16, 197, 86_192_640),
        ("large", 24, 1024, 768, 14, 257, 303_966_208),
        ("large336", 24, 1024, 768, 14, 577, 304_293_888),
    ],
)
def test_clip_architectures_are_the_published_ones(size, depth, width, projected, stride, positions, parameters):
    with torch.device("meta"):
        backbone = backbones.build("clip", size=size, weights="none")
        features = backbone.features(torch.empty(1, 3, 512, 512))
        maskclip = backbones.build("clip", size=size, weights="none", facet="maskclip")
    side = round(512 / stride)
    assert features.shape == (1, width, side, side) and backbone.stride == stride and maskclip.channels == projected
    state = backbone.net.state_dict()
    assert state["positional_embedding"].shape == (positions, width) and state["proj"].shape == (width, projected)
    parts = ["ln_1.{}", "attn.in_proj_{}", "attn.out_proj.{}", "ln_2.{}", "mlp.c_fc.{}", "mlp.c_proj.{}"]
    blocks = [f"transformer.resblocks.{i}.{part}" for i in range(depth) for part in parts]
    names = [name.format(kind) for name in [*blocks, "ln_pre.{}", "ln_post.{}"] for kind in ("weight", "bias")]
    assert set(state) == {"class_embedding", "positional_embedding", "proj", "conv1.weight", *names}
    assert sum(parameter.numel() for parameter in backbone.net.parameters()) == parameters
    assert type(backbone.net.transformer.resblocks[0].mlp.gelu).__name__ == "QuickGELU"
