"""Features of Stable Diffusion against hooks on diffusers' full forward pass."""

import copy

import pytest
import torch
from diffusers import StableDiffusionPipeline

from lumen.core.errors import BadConfig
from lumen.core.registry import backbones
from lumen.diffusion.loading import load

SIZES = [(64, 64), (96, 160), (36, 40)]  # the last has odd sides once halved


def build_tiny(**arguments):
    return backbones.build("sd", size="tiny", weights="none", **arguments)


def random_images(*sides):
    return torch.rand(2, 3, *sides, generator=torch.Generator().manual_seed(1)) * 2 - 1


def noisy_latents(base, image, timestep=100, seed=42):
    """Return the noisy latents, from the autoencoder's mode and the formula of the schedule."""
    z = base.vae.encode(image).latent_dist.mode() * 0.18215
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    signal = (1 - betas).cumprod(0)[timestep]
    noise = torch.randn(1, *z.shape[1:], generator=torch.Generator().manual_seed(seed))
    return signal.sqrt() * z + (1 - signal).sqrt() * noise


def run_unet(base, image, prompt="", timestep=100, seed=42):
    """Run a full forward pass of the U-Net for the hooks of the test."""
    tokens = base.tokenizer([prompt] * len(image), padding="max_length", return_tensors="pt").input_ids
    text = base.text_encoder(tokens).last_hidden_state
    base.unet(noisy_latents(base, image, timestep, seed), timestep, encoder_hidden_states=text)


def assert_close(maps, expected):
    assert len(maps) == len(expected)
    for result, reference in zip(maps, expected, strict=True):
        torch.testing.assert_close(result, reference, atol=1e-5, rtol=1e-5)


def equal(maps, expected):
    return all(torch.equal(result, reference) for result, reference in zip(maps, expected, strict=True))


@pytest.fixture
def base():
    """A copy of the tiny networks, which a test may change or hook."""
    return copy.deepcopy(load("none", "tiny"))


@pytest.mark.parametrize("sides", SIZES)
@torch.no_grad()
def test_features_default_to_what_enters_layers_2_5_8_before_the_skip(base, sides):
    expected = []
    for block in base.unet.up_blocks[:3]:
        # The third resnet is given cat(h, skip), and sd-dino uses h.
        width = block.resnets[1].out_channels
        block.resnets[2].register_forward_pre_hook(lambda m, inputs, width=width: expected.append(inputs[0][:, :width]))
    run_unet(base, random_images(*sides))
    assert_close(build_tiny().feature_maps(random_images(*sides)), expected)


@pytest.mark.parametrize("sides", SIZES)
@torch.no_grad()
def test_features_of_reading_block_are_the_outputs_of_the_blocks(base, sides):
    expected = []
    for block in base.unet.up_blocks[:3]:
        block.register_forward_hook(lambda m, inputs, out: expected.append(out))
    run_unet(base, random_images(*sides))
    assert_close(build_tiny(reading="block").feature_maps(random_images(*sides)), expected)


@pytest.mark.parametrize(
    "arguments",
    [{"timestep": 0}, {"timestep": 261, "seed": 7}, {"prompt": "a snowy road"}],
)
@torch.no_grad()
def test_features_follow_timestep_seed_and_prompt(base, arguments):
    expected = []
    base.unet.up_blocks[1].attentions[1].register_forward_hook(lambda m, i, out: expected.append(out[0]))
    run_unet(base, random_images(64, 64), **arguments)
    backbone = build_tiny(layers=[5], **arguments)
    assert_close(backbone.feature_maps(random_images(64, 64)), expected)
    assert backbone.identity != build_tiny(layers=[5]).identity
    with pytest.raises(AssertionError):
        assert_close(build_tiny(layers=[5]).feature_maps(random_images(64, 64)), expected)


@torch.no_grad()
def test_layers_are_numbered_as_in_the_original_code(base):
    """All twelve output blocks of the original code: resnet, then attention, then upsampler."""
    outputs = {}
    for number, block in enumerate(base.unet.up_blocks):
        for part in range(3):
            last = block.attentions[part] if number else block.resnets[part]
            if part == 2 and number < 3:
                last = block.upsamplers[0]
            layer = 3 * number + part
            last.register_forward_hook(
                lambda m, i, out, layer=layer: outputs.update({layer: out[0] if isinstance(out, tuple) else out})
            )
    base.unet.mid_block.register_forward_hook(lambda m, i, out: outputs.update({-1: out}))
    image = random_images(64, 64)
    run_unet(base, image)
    for layer in range(12):
        for backbone, expected in [
            (build_tiny(layers=[layer], reading="block"), outputs[layer]),
            (build_tiny(layers=[layer]), outputs[layer - 1]),
        ]:
            assert_close(backbone.feature_maps(image), [expected])
            assert backbone.map_channels == (expected.shape[1],) and backbone.stride == 64 // expected.shape[-1]


@torch.no_grad()
def test_forward_pass_ends_at_the_last_layer_and_leaves_no_hook():
    backbone, calls = build_tiny(), []
    handle = backbone.unet.up_blocks[2].resnets[2].register_forward_hook(lambda *_: calls.append(1))
    backbone.features(random_images(64, 64))
    handle.remove()
    assert not calls
    assert not any(module._forward_hooks for module in backbone.modules())


@torch.no_grad()
def test_prompt_keys_and_values_are_computed_once_per_precision(monkeypatch):
    image, backbone, calls = random_images(64, 64), build_tiny(prompt="a snowy road"), []
    with monkeypatch.context() as uncached:
        uncached.setattr("backbones.sd.cached_cross_attention_kv", lambda *_: {})
        expected = build_tiny(prompt="a snowy road").feature_maps(image)
    keys = backbone.unet.get_submodule("mid_block.attentions.0.transformer_blocks.0.attn2.to_k")
    handle = keys.register_forward_hook(lambda *_: calls.append(1))
    maps = [backbone.feature_maps(images) for images in (image, image[:1], image)]
    assert equal(maps[-1], expected) and len(calls) == 1
    with torch.autocast("cpu", torch.bfloat16):
        half = backbone.feature_maps(image)
    torch.testing.assert_close(half, expected, atol=0.2, rtol=0.2)
    assert equal(backbone.feature_maps(image), expected)
    handle.remove()


def test_networks_are_shared_with_the_generator():
    assert build_tiny().unet is load("none", "tiny").unet
    assert build_tiny().unet is build_tiny(timestep=0).unet


def test_features_stay_fp32_if_the_generator_casts_the_network():
    backbone = copy.deepcopy(build_tiny())
    expected = backbone.features(random_images(64, 64))
    backbone.unet.bfloat16()
    features = backbone.features(random_images(64, 64))
    assert features.dtype == torch.float32
    torch.testing.assert_close(features, expected, atol=0.2, rtol=0.2)


def test_sd_loads_the_network_of_a_folder(base, tmp_path):
    base.unet.conv_in.weight.data += 0.1
    StableDiffusionPipeline(
        base.vae,
        base.text_encoder,
        base.tokenizer,
        base.unet,
        base.scheduler,
        None,
        None,
        requires_safety_checker=False,
    ).save_pretrained(tmp_path)
    backbone = backbones.build("sd", weights=str(tmp_path))  # without a size: the folder has its own
    expected = []
    base.unet.up_blocks[2].attentions[1].register_forward_hook(lambda m, i, out: expected.append(out[0]))
    with torch.no_grad():
        run_unet(base, random_images(64, 64))
    assert_close(backbone.feature_maps(random_images(64, 64))[-1:], expected)


def test_timesteps_and_layers_that_do_not_exist_are_an_error():
    with pytest.raises(BadConfig, match="sd .*0 to 999, not 1000"):
        build_tiny(timestep=1000)
    with pytest.raises(BadConfig, match="sd .*0 to 11.* not 12"):
        build_tiny(layers=[12])


@pytest.mark.parametrize(("size", "context", "parameters"), [("v1", 768, 859_520_964), ("v2", 1024, 865_910_724)])
def test_sd_architectures_are_the_published_ones(size, context, parameters):
    with torch.device("meta"):
        entering = backbones.build("sd", size=size, weights="none")
        block = backbones.build("sd", size=size, weights="none", reading="block")
        image = torch.empty(1, 3, 512, 512)
        shapes = [[tuple(m.shape[1:]) for m in backbone.feature_maps(image)] for backbone in (entering, block)]
    assert shapes[0] == [(1280, 8, 8), (1280, 16, 16), (640, 32, 32)]
    assert shapes[1] == [(1280, 16, 16), (1280, 32, 32), (640, 64, 64)]
    assert (entering.channels, entering.stride, entering.downscale) == (3200, 16, 8)
    assert entering.tap_names == ("up_blocks.0.resnets.1", "up_blocks.1.attentions.1", "up_blocks.2.attentions.1")
    assert (block.channels, block.stride) == (3200, 8)
    state = entering.unet.state_dict()
    assert len(state) == 686
    assert sum(parameter.numel() for parameter in entering.unet.parameters()) == parameters
    attention = "up_blocks.1.attentions.1"
    assert state[f"{attention}.transformer_blocks.0.attn2.to_k.weight"].shape == (1280, context)
    assert state[f"{attention}.proj_in.weight"].ndim == (4 if size == "v1" else 2)  # v2's are linear
    assert state["up_blocks.0.resnets.1.conv1.weight"].shape == (1280, 2560, 3, 3)
    assert state["conv_in.weight"].shape == (320, 4, 3, 3)
