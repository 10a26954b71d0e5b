"""The frozen Stable Diffusion: built, read, shared, and its latents against diffusers' own."""

import copy
import os

import pytest
import torch
from diffusers import AutoencoderTiny, DDIMScheduler, PNDMScheduler, StableDiffusionPipeline

from lumen.core.errors import WeightsMissing
from lumen.diffusion import stable_diffusion as pipeline


@pytest.fixture(scope="module")
def tiny():
    return pipeline.load("none", "tiny")


def save(parts, path, scheduler=None, vae=None):
    scheduler = scheduler or parts.scheduler
    StableDiffusionPipeline(
        vae or parts.vae, parts.text_encoder, parts.tokenizer, parts.unet, scheduler, None, None,
        requires_safety_checker=False,
    ).save_pretrained(path)  # fmt: skip


def equal(one, other):
    pairs = zip(one.state_dict().items(), other.state_dict().items(), strict=True)
    return all(a == b and x.dtype == y.dtype and torch.equal(x, y) for (a, x), (b, y) in pairs)


def image(*sides):
    return torch.rand(2, 3, *sides, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_untrained_builds_are_equal_frozen_and_draw_nothing(tiny):
    state = torch.get_rng_state()
    assert pipeline.load("none", "tiny") is tiny
    pipeline._load.cache_clear()
    again = pipeline.load("none", "tiny")
    assert torch.equal(state, torch.get_rng_state())
    for name in ("vae", "unet", "text_encoder"):
        one, other = getattr(tiny, name), getattr(again, name)
        assert one is not other and equal(one, other)
        assert not any(p.requires_grad for p in one.parameters()) and not any(m.training for m in one.modules())
    assert tiny.source == "untrained tiny" and tiny.downscale == 4


def test_an_architecture_without_memory_is_not_handed_out_for_real():
    pipeline._load.cache_clear()
    with torch.device("meta"):
        assert pipeline.load("none", "tiny").unet.device.type == "meta"
    assert pipeline.load("none", "tiny").unet.device.type == "cpu"


@torch.no_grad()
def test_the_tiny_one_denoises_as_the_large_do(tiny):
    z = pipeline.latent(tiny.vae, image(64, 96))
    assert z.shape == (2, 4, 16, 24)
    text = tiny.embed(["a road", ""])
    assert text.shape == (2, 77, 32)
    assert tiny.unet(z, 10, text).sample.shape == z.shape
    assert len(tiny.unet.up_blocks) == 4 and all(len(block.resnets) == 3 for block in tiny.unet.up_blocks)


def test_the_schedule_is_stable_diffusions(tiny):
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    torch.testing.assert_close(tiny.scheduler.alphas_cumprod.double(), (1 - betas).cumprod(0), atol=1e-6, rtol=1e-5)
    config = tiny.scheduler.config
    assert (config.prediction_type, config.steps_offset, config.clip_sample) == ("epsilon", 1, False)


def test_a_tokenizer_without_words_spells(tiny):
    tokens = tiny.tokenizer("Ab c").input_ids
    assert tokens == [512, *tiny.tokenizer.convert_tokens_to_ids(["a", "b</w>", "c</w>"]), 513]
    assert tiny.tokenizer.decode(tokens, skip_special_tokens=True) == "ab c"
    assert len(tiny.tokenizer) == 514
    assert tiny.tokenizer.unk_token_id not in tiny.tokenizer("Zürich, 東京").input_ids[1:-1]
    assert tiny.embed(["word " * 200]).shape == (1, 77, 32)
    assert not torch.equal(tiny.embed(["a"]), tiny.embed(["b"]))


@torch.no_grad()
def test_latents_are_the_posteriors(tiny):
    posterior = tiny.vae.encode(image(64, 64)).latent_dist
    mean, logvar = pipeline.moments(tiny.vae, image(64, 64)).chunk(2, dim=1)
    assert torch.equal(mean, posterior.mean) and torch.equal(logvar, posterior.logvar)
    assert torch.equal(pipeline.latent(tiny.vae, image(64, 64)), posterior.mode() * 0.18215)
    noise = torch.randn(mean.shape, generator=torch.Generator().manual_seed(0))
    sample = posterior.sample(torch.Generator().manual_seed(0)) * 0.18215
    torch.testing.assert_close(pipeline.latent(tiny.vae, image(64, 64), noise), sample)


def test_a_folder_gives_back_its_networks(tiny, tmp_path):
    save(tiny, tmp_path, DDIMScheduler.from_config(tiny.scheduler.config, prediction_type="v_prediction"))
    again = pipeline.load(str(tmp_path), "v1")
    for name in ("vae", "unet", "text_encoder"):
        assert equal(getattr(tiny, name), getattr(again, name))
        assert not any(p.requires_grad for p in getattr(again, name).parameters())
    assert again.scheduler.config.prediction_type == "v_prediction"
    assert torch.equal(again.embed(["a road"]), tiny.embed(["a road"]))
    assert again is pipeline.load(str(tmp_path), "tiny") and again.source == str(tmp_path)


def test_whatever_sampler_and_precision_a_folder_has_it_is_read_for_training(tiny, tmp_path):
    halves = copy.deepcopy(tiny)
    for part in (halves.vae, halves.unet, halves.text_encoder):
        part.half()
    save(halves, tmp_path, PNDMScheduler.from_config(tiny.scheduler.config, skip_prk_steps=True))
    again = pipeline.load(str(tmp_path), "v1")
    assert torch.equal(again.scheduler.alphas_cumprod, tiny.scheduler.alphas_cumprod)
    for part in (again.vae, again.unet, again.text_encoder):
        assert {p.dtype for p in part.parameters()} == {torch.float32}


@torch.no_grad()
def test_the_autoencoder_can_be_another(tiny, tmp_path):
    torch.manual_seed(0)
    small = AutoencoderTiny(
        encoder_block_out_channels=(8, 8, 8), decoder_block_out_channels=(8, 8, 8),
        num_encoder_blocks=(1, 1, 1), num_decoder_blocks=(1, 1, 1),
    ).eval()  # fmt: skip
    small.save_pretrained(tmp_path / "vae")
    parts = pipeline.load("none", "tiny", vae=str(tmp_path / "vae"))
    mean = pipeline.moments(parts.vae, image(64, 64))  # and no variance below it
    assert torch.equal(mean, small.encode(image(64, 64)).latents)
    assert torch.equal(pipeline.latent(parts.vae, image(64, 64), torch.randn_like(mean)), mean)
    assert parts.downscale == 4 and equal(parts.unet, tiny.unet)
    save(tiny, tmp_path / "whole", vae=small)
    assert isinstance(pipeline.load(str(tmp_path / "whole"), "v1").vae, AutoencoderTiny)
    with pytest.raises(WeightsMissing, match="the autoencoder cannot be read"):
        pipeline.load("none", "tiny", vae=str(tmp_path))


@torch.no_grad()
def test_a_real_autoencoder_gives_the_image_back():
    if "LUMEN_SAMPLES" not in os.environ:
        pytest.skip("LUMEN_SAMPLES is not set: no real autoencoder")
    parts = pipeline.load("none", "tiny", vae=os.path.join(os.environ["LUMEN_SAMPLES"], "taesd"))
    ramp = torch.linspace(-0.9, 0.9, 64).expand(1, 3, 64, 64)
    z = pipeline.latent(parts.vae, ramp)
    assert parts.downscale == 8 and z.shape == (1, 4, 8, 8) and 0.3 < z.std() < 3
    assert (parts.vae.decode(z / parts.vae.config.scaling_factor).sample - ramp).abs().mean() < 0.1


@pytest.mark.parametrize(
    ("size", "unet", "vae", "text"),
    [("v1", 859_520_964, 83_653_863, 123_060_480), ("v2", 865_910_724, 83_653_863, 340_387_840)],
)
def test_full_size_architectures_are_the_published_ones(size, unet, vae, text):
    with torch.device("meta"):
        parts = pipeline.load("none", size)
    counts = [sum(p.numel() for p in part.parameters()) for part in (parts.unet, parts.vae, parts.text_encoder)]
    assert counts == [unet, vae, text] and parts.downscale == 8
    assert len(parts.vae.state_dict()) == 248
    assert parts.text_encoder.config.hidden_act == ("quick_gelu" if size == "v1" else "gelu")
