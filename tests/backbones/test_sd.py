"""Stable Diffusion's features against hooks on diffusers' full forward pass."""

import copy

import pytest
import torch
from diffusers import StableDiffusionPipeline

from lumen.core.errors import BadConfig
from lumen.core.registry import backbones
from lumen.diffusion import loading

SIZES = [(64, 64), (96, 160), (36, 40)]  # the last halves to odd sides


def tiny(**arguments):
    return backbones.build("sd", size="tiny", weights="none", **arguments)


def picture(*sides):
    return torch.rand(2, 3, *sides, generator=torch.Generator().manual_seed(1)) * 2 - 1


def noised(parts, image, timestep=100, seed=42):
    """The noisy latent, from the autoencoder's mode and the schedule's formula."""
    z = parts.vae.encode(image).latent_dist.mode() * 0.18215
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    signal = (1 - betas).cumprod(0)[timestep]
    noise = torch.randn(1, *z.shape[1:], generator=torch.Generator().manual_seed(seed))
    return signal.sqrt() * z + (1 - signal).sqrt() * noise


def full(parts, image, prompt="", timestep=100, seed=42):
    """One whole forward pass of the U-Net; whatever hooks it has see their modules."""
    tokens = parts.tokenizer([prompt] * len(image), padding="max_length", return_tensors="pt").input_ids
    text = parts.text_encoder(tokens).last_hidden_state
    parts.unet(noised(parts, image, timestep, seed), timestep, encoder_hidden_states=text)


def close(ours, theirs):
    assert len(ours) == len(theirs)
    for our, their in zip(ours, theirs, strict=True):
        torch.testing.assert_close(our, their, atol=1e-5, rtol=1e-5)


@pytest.fixture
def parts():
    return copy.deepcopy(loading.load("none", "tiny"))  # its hooks stay its own


@pytest.mark.parametrize("sides", SIZES)
@torch.no_grad()
def test_by_default_layers_2_5_8_are_what_enters_them_before_the_skip(parts, sides):
    seen = []
    for block in parts.unet.up_blocks[:3]:
        # the third resnet is given cat(h, skip), and h is what sd-dino keeps
        width = block.resnets[1].out_channels
        block.resnets[2].register_forward_pre_hook(lambda m, inputs, width=width: seen.append(inputs[0][:, :width]))
    full(parts, picture(*sides))
    close(tiny().feature_maps(picture(*sides)), seen)


@pytest.mark.parametrize("sides", SIZES)
@torch.no_grad()
def test_the_block_reading_is_what_leaves_them(parts, sides):
    seen = []
    for block in parts.unet.up_blocks[:3]:
        block.register_forward_hook(lambda m, inputs, out: seen.append(out))
    full(parts, picture(*sides))
    close(tiny(reading="block").feature_maps(picture(*sides)), seen)


@pytest.mark.parametrize(
    "arguments",
    [{"timestep": 0}, {"timestep": 261, "seed": 7}, {"prompt": "a snowy road"}],
)
@torch.no_grad()
def test_timestep_noise_and_prompt_are_those_asked_for(parts, arguments):
    seen = []
    parts.unet.up_blocks[1].attentions[1].register_forward_hook(lambda m, i, out: seen.append(out[0]))
    full(parts, picture(64, 64), **arguments)
    ours = tiny(layers=[5], **arguments)
    close(ours.feature_maps(picture(64, 64)), seen)
    assert ours.identity != tiny(layers=[5]).identity
    with pytest.raises(AssertionError):
        close(tiny(layers=[5]).feature_maps(picture(64, 64)), seen)


@torch.no_grad()
def test_every_layer_is_the_original_codes(parts):
    """All twelve, against the table of output blocks: resnet, then attention, then upsampler."""
    seen = {}
    for number, block in enumerate(parts.unet.up_blocks):
        for part in range(3):
            last = block.attentions[part] if number else block.resnets[part]
            if part == 2 and number < 3:
                last = block.upsamplers[0]
            layer = 3 * number + part
            last.register_forward_hook(
                lambda m, i, out, layer=layer: seen.update({layer: out[0] if isinstance(out, tuple) else out})
            )
    parts.unet.mid_block.register_forward_hook(lambda m, i, out: seen.update({-1: out}))
    full(parts, picture(64, 64))
    for layer in range(12):
        leaving, entering = tiny(layers=[layer], reading="block"), tiny(layers=[layer])
        close(leaving.feature_maps(picture(64, 64)), [seen[layer]])
        close(entering.feature_maps(picture(64, 64)), [seen[layer - 1]])
        for backbone, truth in [(leaving, seen[layer]), (entering, seen[layer - 1])]:
            assert backbone.map_channels == (truth.shape[1],) and backbone.stride == 64 // truth.shape[-1]


@torch.no_grad()
def test_the_pass_ends_at_the_last_layer_and_leaves_no_hook():
    backbone, ran = tiny(), []
    handle = backbone.unet.up_blocks[2].resnets[2].register_forward_hook(lambda *_: ran.append(1))
    backbone.features(picture(64, 64))
    handle.remove()
    assert not ran
    assert not any(module._forward_hooks for module in backbone.modules())


@torch.no_grad()
def test_the_prompt_is_attended_to_once_per_precision_and_no_bit_changes(monkeypatch):
    image, backbone, asked = picture(64, 64), tiny(prompt="a snowy road"), []
    with monkeypatch.context() as plainly:
        plainly.setattr("backbones.sd.cached_cross_attention_kv", lambda *_: {})
        expected = tiny(prompt="a snowy road").feature_maps(image)
    keys = backbone.unet.get_submodule("mid_block.attentions.0.transformer_blocks.0.attn2.to_k")
    handle = keys.register_forward_hook(lambda *_: asked.append(1))
    for each in (image, image[:1], image):
        found = backbone.feature_maps(each)
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True)) and len(asked) == 1
    with torch.autocast("cpu", torch.bfloat16):
        half = backbone.feature_maps(image)
    torch.testing.assert_close(half, expected, atol=0.2, rtol=0.2)
    assert all(torch.equal(one, other) for one, other in zip(backbone.feature_maps(image), expected, strict=True))
    handle.remove()


def test_the_generator_and_the_features_share_one_network():
    assert tiny().unet is loading.load("none", "tiny").unet
    assert tiny().unet is tiny(timestep=0).unet


def test_a_network_that_the_generator_cast_still_gives_features():
    backbone = copy.deepcopy(tiny())
    before = backbone.features(picture(64, 64))
    backbone.unet.bfloat16()
    after = backbone.features(picture(64, 64))
    assert after.dtype == torch.float32
    torch.testing.assert_close(after, before, atol=0.2, rtol=0.2)


def test_a_folder_gives_back_its_network(parts, tmp_path):
    parts.unet.conv_in.weight.data += 0.1
    StableDiffusionPipeline(
        parts.vae,
        parts.text_encoder,
        parts.tokenizer,
        parts.unet,
        parts.scheduler,
        None,
        None,
        requires_safety_checker=False,
    ).save_pretrained(tmp_path)
    backbone = backbones.build("sd", weights=str(tmp_path))  # no size: the folder has its own
    seen = []
    parts.unet.up_blocks[2].attentions[1].register_forward_hook(lambda m, i, out: seen.append(out[0]))
    with torch.no_grad():
        full(parts, picture(64, 64))
    close(backbone.feature_maps(picture(64, 64))[-1:], seen)


def test_a_timestep_it_has_not_is_a_sentence():
    with pytest.raises(BadConfig, match="sd knows timesteps 0 to 999, not 1000"):
        tiny(timestep=1000)
    with pytest.raises(BadConfig, match="sd has layers 0 to 11"):
        tiny(layers=[12])


@pytest.mark.parametrize(("size", "context", "parameters"), [("v1", 768, 859_520_964), ("v2", 1024, 865_910_724)])
def test_full_size_architectures_are_the_published_ones(size, context, parameters):
    with torch.device("meta"):
        entering = backbones.build("sd", size=size, weights="none")
        leaving = backbones.build("sd", size=size, weights="none", reading="block")
        image = torch.empty(1, 3, 512, 512)
        assert [tuple(m.shape[1:]) for m in entering.feature_maps(image)] == [(1280, 8, 8), (1280, 16, 16), (640, 32, 32)]
        assert [tuple(m.shape[1:]) for m in leaving.feature_maps(image)] == [(1280, 16, 16), (1280, 32, 32), (640, 64, 64)]
    assert (entering.channels, entering.stride, entering.downscale) == (3200, 16, 8)
    assert entering.tap_names == ("up_blocks.0.resnets.1", "up_blocks.1.attentions.1", "up_blocks.2.attentions.1")
    assert (leaving.channels, leaving.stride) == (3200, 8)
    state = entering.unet.state_dict()
    assert len(state) == 686
    assert sum(each.numel() for each in entering.unet.parameters()) == parameters
    attention = "up_blocks.1.attentions.1"
    assert state[f"{attention}.transformer_blocks.0.attn2.to_k.weight"].shape == (1280, context)
    assert state[f"{attention}.proj_in.weight"].ndim == (4 if size == "v1" else 2)  # v2's are linear
    assert state["up_blocks.0.resnets.1.conv1.weight"].shape == (1280, 2560, 3, 3)
    assert state["conv_in.weight"].shape == (320, 4, 3, 3)
