"""Plug-and-Play against a plain loop over the U-Net, and its reconstruction of the reference."""

import copy

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler

from lumen.core.errors import BadConfig
from lumen.diffusion.loading import load
from lumen.diffusion.sampling import build_sampler, run_steps
from lumen.diffusion.stable_diffusion import StableDiffusion, encode_latents
from lumen.generators.pnp import PnP

NEGATIVE = "ugly, blurry"
PROMPTS = ["a red ball", "a house under a night sky"]
STEPS, INVERSION_STEPS = 5, 20  # the timesteps of 5 steps are among those of 20


@pytest.fixture
def references() -> torch.Tensor:
    return torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(4)).double()


@pytest.fixture(scope="module")
def double(pipeline) -> StableDiffusion:
    """Untrained networks in float64: an inversion by random ones amplifies the rounding of float32 without end."""
    return with_networks(pipeline, **{name: copy.deepcopy(x).double() for name, x in pipeline.networks.items()})


def with_networks(base: StableDiffusion, **parts) -> StableDiffusion:
    names = ("vae", "text_encoder", "tokenizer", "unet", "source", "scheduler")
    return StableDiffusion(**{name: getattr(base, name) for name in names} | parts)


class InjectedAttention:
    """Self-attention written out; queries and keys of the first third of the batch serve the other two."""

    def __init__(self, is_active):
        self.is_active = is_active

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, temb=None):
        q, k, v = attn.to_q(hidden_states), attn.to_k(hidden_states), attn.to_v(hidden_states)
        if self.is_active():
            third = len(q) // 3
            for x in (q, k):
                x[third : 2 * third] = x[:third]
                x[2 * third :] = x[:third]
        q, k, v = (x.unflatten(2, (attn.heads, -1)).transpose(1, 2) for x in (q, k, v))
        weights = (q @ k.transpose(2, 3) * q.shape[-1] ** -0.5).softmax(-1)
        return attn.to_out[0]((weights @ v).transpose(1, 2).flatten(2))


def published_inversion(base: StableDiffusion, z, steps: int) -> dict[int, torch.Tensor]:
    """Return the inverted latents at all timesteps of so many steps."""
    scheduler = DDIMScheduler.from_config(base.scheduler.config)
    scheduler.set_timesteps(steps)
    timesteps, text, saved = scheduler.timesteps.flip(0), base.encode_prompts([""] * len(z)), {}
    for i, t in enumerate(timesteps):
        alpha = float(scheduler.alphas_cumprod[t])
        before = float(scheduler.alphas_cumprod[timesteps[i - 1]] if i else scheduler.final_alpha_cumprod)
        predicted = base.unet(z, t, encoder_hidden_states=text).sample
        if scheduler.config.prediction_type == "v_prediction":
            predicted = before**0.5 * predicted + (1 - before) ** 0.5 * z
        x0 = (z - (1 - before) ** 0.5 * predicted) / before**0.5
        z = saved[int(t)] = alpha**0.5 * x0 + (1 - alpha) ** 0.5 * predicted
    return saved


@torch.no_grad()
def published_sample(base: StableDiffusion, image, prompts, guidance, conv_share=0.8, attention_share=0.5):
    """Return the latents of the authors' loop, with their layers counted from the U-Net's blocks."""
    saved = published_inversion(base, encode_latents(base.vae, image), INVERSION_STEPS)
    scheduler = DDIMScheduler.from_config(base.scheduler.config)
    scheduler.set_timesteps(STEPS)
    b, now = len(image), {"step": 0}
    text = base.encode_prompts([""] * b + [NEGATIVE] * b + prompts)

    def inject(module, arguments, output):
        if now["step"] < int(STEPS * conv_share):
            output[b : 2 * b] = output[:b]
            output[2 * b :] = output[:b]
        return output

    unet, processors = base.unet, dict(base.unet.attn_processors)
    handle = unet.up_blocks[1].resnets[1].conv2.register_forward_hook(inject)
    for block, layers in ((1, (1, 2)), (2, (0, 1, 2)), (3, (0, 1, 2))):
        for layer in layers:
            attention = unet.up_blocks[block].attentions[layer].transformer_blocks[0].attn1
            attention.processor = InjectedAttention(lambda: now["step"] < int(STEPS * attention_share))
    try:
        x = saved[int(scheduler.timesteps[0])]
        for step, t in enumerate(scheduler.timesteps):
            now["step"] = step
            _, negative, positive = unet(torch.cat([saved[int(t)], x, x]), t, encoder_hidden_states=text).sample.chunk(
                3
            )
            x = scheduler.step(negative + guidance * (positive - negative), t, x).prev_sample
    finally:
        handle.remove()
        unet.set_attn_processor(processors)
    return x


@pytest.mark.parametrize(("prediction", "guidance"), [("epsilon", 7.5), ("v_prediction", 1.0)])
def test_sample_equals_that_of_the_published_loop(double, references, prediction, guidance):
    base = with_networks(
        double, scheduler=DDPMScheduler.from_config(double.scheduler.config, prediction_type=prediction)
    )
    expected = published_sample(base, references * 2 - 1, PROMPTS, guidance)
    generator = PnP(INVERSION_STEPS, base=base)
    options = {"steps": STEPS, "guidance": guidance, "negative": NEGATIVE}
    samples = generator.sample_latents(PROMPTS, references, [0, 0], (32, 32), **options)
    assert torch.allclose(samples, expected, atol=1e-4)
    generator.conv_share = generator.attention_share = 0.0
    assert not torch.allclose(
        generator.sample_latents(PROMPTS, references, [0, 0], (32, 32), **options), samples, atol=1e-2
    )


def test_sample_is_deterministic_and_restores_the_unet(double, references):
    modules, generator = dict(double.unet.named_modules()), PnP(INVERSION_STEPS, base=double)
    first = generator.sample_latents(PROMPTS, references, [1, 2], (32, 32), steps=STEPS)
    calls = []
    handle = double.unet.register_forward_hook(lambda *_: calls.append(1))
    again = generator.sample_latents(PROMPTS, references.clone(), [3, 4], (32, 32), steps=STEPS)
    handle.remove()
    assert torch.equal(first, again) and len(calls) == STEPS  # the inversion of the same images is not repeated
    alone = generator.sample_latents(PROMPTS[1:], references[1:], [5], (32, 32), steps=STEPS)
    assert torch.allclose(alone, first[1:], atol=1e-4)
    assert not torch.allclose(alone, first[:1], atol=1e-2)
    assert dict(double.unet.named_modules()) == modules


def test_unet_without_the_layers_is_refused(pipeline, monkeypatch):
    monkeypatch.delitem(pipeline.unet.up_blocks[1].attentions._modules, "2")
    with pytest.raises(BadConfig, match=r"up_blocks\.1\.attentions\.2"):
        PnP(base=pipeline)


@pytest.mark.long
@torch.no_grad()
def test_reconstruction_is_as_near_to_the_round_trip_as_that_of_the_inversion(reference_scenes):
    """Also under the source's caption, although the inversion is one under the empty prompt."""
    base, (images, captions), steps = load("scenes", "tiny"), reference_scenes, 15
    generator = PnP(1, 1.0, 1.0, base=base)
    round_trip, empty = generator.reconstruct(images), [""] * len(images)
    sampler = build_sampler(base.scheduler.config, "ddim", steps)
    inverted = generator.invert(images, sampler.timesteps.tolist())[int(sampler.timesteps[0])]
    text = base.encode_prompts(empty)
    plain = base.decode(run_steps(lambda z, t, _: base.unet(z, t, text).sample, sampler, inverted, 1.0))
    layout, seeds, size = (images + 1) / 2, [0] * len(images), tuple(images.shape[2:])
    captioned, uncaptioned = (
        generator.sample(prompts, layout, seeds, size, "ddim", steps, 1.0) for prompts in (captions, empty)
    )
    errors = [(x - round_trip).abs().mean() for x in (plain, captioned, uncaptioned, round_trip.roll(1, 0))]
    assert errors[0] < 0.2 * errors[3]
    assert errors[1] <= 1.1 * errors[0] and errors[2] < 0.7 * errors[0]


@pytest.fixture(scope="module")
def reference_scenes() -> tuple[torch.Tensor, list[str]]:
    """Held-out scenes of 64 px with their captions."""
    from lumen.config.experiment import load as load_config
    from lumen.runs.data import build_data

    data = build_data(load_config("scenes", ["validation=8", "batch=8", "data.images=8"]))
    batch = next(iter(data.val_dataloader())).to("cpu")
    return batch.image, batch.caption
