"""Frozen Stable Diffusion: building, loading, sharing, and its latents against those of diffusers."""

import copy

import pytest
import torch
from diffusers import AutoencoderTiny, DDIMScheduler, PNDMScheduler, StableDiffusionPipeline

from lumen.core.errors import WeightsMissing
from lumen.diffusion import loading
from lumen.diffusion.stable_diffusion import encode_latents, encode_moments


@pytest.fixture(scope="module")
def tiny():
    return loading.load("none", "tiny")


def save(parts, path, scheduler=None, vae=None):
    scheduler = scheduler or parts.scheduler
    StableDiffusionPipeline(
        vae or parts.vae, parts.text_encoder, parts.tokenizer, parts.unet, scheduler, None, None,
        requires_safety_checker=False,
    ).save_pretrained(path)  # fmt: skip


def has_equal_weights(network, reference):
    pairs = zip(network.state_dict().items(), reference.state_dict().items(), strict=True)
    return all(a == b and x.dtype == y.dtype and torch.equal(x, y) for (a, x), (b, y) in pairs)


def random_images(*sides):
    return torch.rand(2, 3, *sides, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_untrained_networks_are_equal_and_frozen_and_leave_the_random_state(tiny):
    state = torch.get_rng_state()
    assert loading.load("none", "tiny") is tiny
    loading._load.cache_clear()
    rebuilt = loading.load("none", "tiny")
    assert torch.equal(state, torch.get_rng_state())
    for name in ("vae", "unet", "text_encoder"):
        network = getattr(tiny, name)
        assert network is not getattr(rebuilt, name) and has_equal_weights(network, getattr(rebuilt, name))
        assert not any(p.requires_grad for p in network.parameters())
        assert not any(module.training for module in network.modules())
    assert tiny.source == "untrained tiny" and tiny.downscale == 4


def test_meta_networks_are_not_shared_with_real_runs():
    loading._load.cache_clear()
    with torch.device("meta"):
        assert loading.load("none", "tiny").unet.device.type == "meta"
    assert loading.load("none", "tiny").unet.device.type == "cpu"


@torch.no_grad()
def test_tiny_unet_denoises_latents(tiny):
    z = encode_latents(tiny.vae, random_images(64, 96))
    assert z.shape == (2, 4, 16, 24)
    text = tiny.encode_prompts(["a road", ""])
    assert text.shape == (2, 77, 32)
    assert tiny.unet(z, 10, text).sample.shape == z.shape
    assert len(tiny.unet.up_blocks) == 4 and all(len(block.resnets) == 3 for block in tiny.unet.up_blocks)


def test_noise_schedule_is_that_of_stable_diffusion(tiny):
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    torch.testing.assert_close(tiny.scheduler.alphas_cumprod.double(), (1 - betas).cumprod(0), atol=1e-6, rtol=1e-5)
    config = tiny.scheduler.config
    assert (config.prediction_type, config.steps_offset, config.clip_sample) == ("epsilon", 1, False)


def test_untrained_tokenizer_spells_words(tiny):
    tokens = tiny.tokenizer("Ab c").input_ids
    assert tokens == [512, *tiny.tokenizer.convert_tokens_to_ids(["a", "b</w>", "c</w>"]), 513]
    assert tiny.tokenizer.decode(tokens, skip_special_tokens=True) == "ab c"
    assert len(tiny.tokenizer) == 514
    assert tiny.tokenizer.unk_token_id not in tiny.tokenizer("Zürich, 東京").input_ids[1:-1]
    assert tiny.encode_prompts(["word " * 200]).shape == (1, 77, 32)
    assert not torch.equal(tiny.encode_prompts(["a"]), tiny.encode_prompts(["b"]))


@torch.no_grad()
def test_latents_equal_the_posterior_of_diffusers(tiny):
    posterior = tiny.vae.encode(random_images(64, 64)).latent_dist
    mean, logvar = encode_moments(tiny.vae, random_images(64, 64)).chunk(2, dim=1)
    assert torch.equal(mean, posterior.mean) and torch.equal(logvar, posterior.logvar)
    assert torch.equal(encode_latents(tiny.vae, random_images(64, 64)), posterior.mode() * 0.18215)
    noise = torch.randn(mean.shape, generator=torch.Generator().manual_seed(0))
    sample = posterior.sample(torch.Generator().manual_seed(0)) * 0.18215
    torch.testing.assert_close(encode_latents(tiny.vae, random_images(64, 64), noise), sample)


def test_load_of_a_folder_returns_the_networks_saved_there(tiny, tmp_path):
    save(tiny, tmp_path, DDIMScheduler.from_config(tiny.scheduler.config, prediction_type="v_prediction"))
    loaded = loading.load(str(tmp_path), "v1")
    for name in ("vae", "unet", "text_encoder"):
        assert has_equal_weights(getattr(tiny, name), getattr(loaded, name))
        assert not any(p.requires_grad for p in getattr(loaded, name).parameters())
    assert loaded.scheduler.config.prediction_type == "v_prediction"
    assert torch.equal(loaded.encode_prompts(["a road"]), tiny.encode_prompts(["a road"]))
    assert loaded is loading.load(str(tmp_path), "tiny") and loaded.source == str(tmp_path)


def test_load_of_a_folder_yields_float32_and_a_training_schedule(tiny, tmp_path):
    half_precision = copy.deepcopy(tiny)
    for part in (half_precision.vae, half_precision.unet, half_precision.text_encoder):
        part.half()
    save(half_precision, tmp_path, PNDMScheduler.from_config(tiny.scheduler.config, skip_prk_steps=True))
    loaded = loading.load(str(tmp_path), "v1")
    assert torch.equal(loaded.scheduler.alphas_cumprod, tiny.scheduler.alphas_cumprod)
    for part in (loaded.vae, loaded.unet, loaded.text_encoder):
        assert {p.dtype for p in part.parameters()} == {torch.float32}


@torch.no_grad()
def test_load_takes_another_autoencoder(tiny, tmp_path):
    torch.manual_seed(0)
    small = AutoencoderTiny(
        encoder_block_out_channels=(8, 8, 8), decoder_block_out_channels=(8, 8, 8),
        num_encoder_blocks=(1, 1, 1), num_decoder_blocks=(1, 1, 1),
    ).eval()  # fmt: skip
    small.save_pretrained(tmp_path / "vae")
    parts = loading.load("none", "tiny", vae=str(tmp_path / "vae"))
    mean = encode_moments(parts.vae, random_images(64, 64))  # an AutoencoderTiny has no variance
    assert torch.equal(mean, small.encode(random_images(64, 64)).latents)
    assert torch.equal(encode_latents(parts.vae, random_images(64, 64), torch.randn_like(mean)), mean)
    assert parts.downscale == 4 and has_equal_weights(parts.unet, tiny.unet)
    save(tiny, tmp_path / "whole", vae=small)
    assert isinstance(loading.load(str(tmp_path / "whole"), "v1").vae, AutoencoderTiny)
    with pytest.raises(WeightsMissing, match="the autoencoder"):
        loading.load("none", "tiny", vae=str(tmp_path))


@torch.no_grad()
def test_real_autoencoder_reconstructs_an_image(samples):
    parts = loading.load("none", "tiny", vae=str(samples / "taesd"))
    ramp = torch.linspace(-0.9, 0.9, 64).expand(1, 3, 64, 64)
    z = encode_latents(parts.vae, ramp)
    assert parts.downscale == 8 and z.shape == (1, 4, 8, 8) and 0.3 < z.std() < 3
    assert (parts.vae.decode(z / parts.vae.config.scaling_factor).sample - ramp).abs().mean() < 0.1


@pytest.mark.parametrize(
    ("size", "unet", "vae", "text"),
    [("v1", 859_520_964, 83_653_863, 123_060_480), ("v2", 865_910_724, 83_653_863, 340_387_840)],
)
def test_architectures_have_the_published_numbers_of_parameters(size, unet, vae, text):
    with torch.device("meta"):
        parts = loading.load("none", size)
    counts = [sum(p.numel() for p in part.parameters()) for part in (parts.unet, parts.vae, parts.text_encoder)]
    assert counts == [unet, vae, text] and parts.downscale == 8
    assert len(parts.vae.state_dict()) == 248
    assert parts.text_encoder.config.hidden_act == ("quick_gelu" if size == "v1" else "gelu")
