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

SIZES = [(64, 64), (96, 96), (64, 128)]  # the first is the size it was made for


def shaken(network):
    generator = torch.Generator().manual_seed(3)
    for parameter in network.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    return network


def tiny(**arguments):
    backbone = backbones.build("clip", size="tiny", weights="none", **arguments)
    shaken(backbone.net)
    return backbone


def tower(backbone, sides):
    """open_clip's image tower made for `sides`, loaded as open_clip loads a checkpoint of another size."""
    changes = {**TINY_CONFIG, "vision_cfg": {**TINY_CONFIG["vision_cfg"], "image_size": sides}}
    whole = open_clip.CLIP(**{**open_clip.get_model_config("ViT-B-16-quickgelu"), **changes}).eval()
    state = {**whole.state_dict(), **{f"visual.{key}": value for key, value in backbone.net.state_dict().items()}}
    resize_pos_embed(state, whole)
    whole.load_state_dict(state)
    return whole.visual


def pictures(sides):
    image = torch.rand(2, 3, *sides, generator=torch.Generator().manual_seed(1))
    return image * 2 - 1, normalize(image, open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)


def close(ours, theirs):
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("sides", SIZES)
@pytest.mark.parametrize("layer", [-1, 0, [0, 2]])
@torch.no_grad()
def test_tokens_are_those_of_forward_intermediates(layer, sides):
    backbone = tiny(layer=layer)
    image, normalised = pictures(sides)
    indices = [index % 3 for index in ([layer] if isinstance(layer, int) else layer)]
    theirs = tower(backbone, sides).forward_intermediates(normalised, indices=indices, normalize_intermediates=True)
    close(backbone.features(image), torch.cat(theirs["image_intermediates"], 1))


def cells(tokens, sides):
    return tokens[:, 1:].mT.unflatten(2, [side // 16 for side in sides])


@pytest.mark.parametrize("sides", SIZES)
@pytest.mark.parametrize("facet", ["key", "value"])
@torch.no_grad()
def test_keys_and_values_are_what_the_attention_uses(facet, sides):
    backbone = tiny(layer=[0, 2], facet=facet)
    image, normalised = pictures(sides)
    network, seen = tower(backbone, sides), []
    for index in (0, 2):
        network.transformer.resblocks[index].attn.register_forward_pre_hook(lambda m, inputs: seen.append((m, inputs)))
    network.train()  # or torch's fused path skips the attention's own forward
    network(normalised)
    theirs = []
    for attention, (query, key, value) in seen:
        projected = torch.nn.functional._in_projection_packed(
            query, key, value, attention.in_proj_weight, attention.in_proj_bias
        )
        theirs.append(cells(projected[("query", "key", "value").index(facet)], sides))
    close(backbone.features(image), torch.cat(theirs, 1))


@pytest.mark.parametrize("sides", SIZES)
@torch.no_grad()
def test_maskclip_is_the_last_block_with_every_token_attending_to_itself(sides):
    backbone = tiny(facet="maskclip")
    image, normalised = pictures(sides)
    network = tower(backbone, sides)
    *earlier, last = network.transformer.resblocks
    x = network._embeds(normalised)
    for block in earlier:
        x = block(x)
    alone = torch.full((x.shape[1],) * 2, -torch.inf).fill_diagonal_(0)
    theirs = network.ln_post(last(x, attn_mask=alone)) @ network.proj
    assert backbone.channels == TINY_CONFIG["embed_dim"]
    close(backbone.features(image), cells(theirs, sides))


def folder(path, **preprocess):
    whole = shaken(open_clip.CLIP(**{**open_clip.get_model_config("ViT-B-16-quickgelu"), **TINY_CONFIG}))
    config = {"model_cfg": {**open_clip.get_model_config("ViT-B-16-quickgelu"), **TINY_CONFIG}, "preprocess_cfg": preprocess}
    (path / "open_clip_config.json").write_text(json.dumps(config))
    save_file(whole.state_dict(), path / "open_clip_model.safetensors")
    return whole.eval()


@torch.no_grad()
def test_a_folder_gives_back_its_network_and_its_preprocessing(tmp_path):
    mean, std = [0.5, 0.4, 0.3], [0.2, 0.3, 0.4]
    whole = folder(tmp_path, mean=mean, std=std)
    backbone = backbones.build("clip", weights=str(tmp_path))
    image = pictures((64, 64))[0]
    theirs = whole.visual.forward_intermediates(
        normalize((image + 1) / 2, mean, std), indices=[2], normalize_intermediates=True
    )
    close(backbone.features(image), theirs["image_intermediates"][0])
    (tmp_path / "open_clip_model.safetensors").unlink()
    with pytest.raises(WeightsMissing, match="cannot be read"):  # open_clip itself would go on, untrained
        backbones.build("clip", weights=str(tmp_path))


@pytest.mark.parametrize(
    ("size", "depth", "width", "out", "stride", "places", "parameters"),
    [
        ("base", 12, 768, 512, 16, 197, 86_192_640),
        ("large", 24, 1024, 768, 14, 257, 303_966_208),
        ("large336", 24, 1024, 768, 14, 577, 304_293_888),
    ],
)
def test_full_size_architectures_are_the_published_ones(size, depth, width, out, stride, places, parameters):
    with torch.device("meta"):
        backbone = backbones.build("clip", size=size, weights="none")
        features = backbone.features(torch.empty(1, 3, 512, 512))
        masked = backbones.build("clip", size=size, weights="none", facet="maskclip")
    side = round(512 / stride)
    assert features.shape == (1, width, side, side) and backbone.stride == stride and masked.channels == out
    state = backbone.net.state_dict()
    assert state["positional_embedding"].shape == (places, width) and state["proj"].shape == (width, out)
    parts = ["ln_1.{}", "attn.in_proj_{}", "attn.out_proj.{}", "ln_2.{}", "mlp.c_fc.{}", "mlp.c_proj.{}"]
    blocks = [f"transformer.resblocks.{i}.{part}" for i in range(depth) for part in parts]
    names = [each.format(kind) for each in [*blocks, "ln_pre.{}", "ln_post.{}"] for kind in ("weight", "bias")]
    assert set(state) == {"class_embedding", "positional_embedding", "proj", "conv1.weight", *names}
    assert sum(each.numel() for each in backbone.net.parameters()) == parameters
    assert type(backbone.net.transformer.resblocks[0].mlp.gelu).__name__ == "QuickGELU"
