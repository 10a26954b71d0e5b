"""ControlNet generator against diffusers' own classes; parts that training must leave alone."""

import copy

import pytest
import torch
import torch.nn.functional as F
from diffusers import ControlNetModel, DDPMScheduler, StableDiffusionControlNetPipeline
from diffusers.models.attention_processor import AttnProcessor2_0

from lumen.core.patching import replace_submodules
from lumen.core.random import keyed_normal, keyed_uniform, stable_seed
from lumen.core.resize import resize
from lumen.diffusion.activation_reuse import shared_self_attention
from lumen.diffusion.sampling import SAMPLERS
from lumen.diffusion.stable_diffusion import StableDiffusion, encode_latents
from lumen.generators.controlnet import ControlNet

K = 5
PROMPTS, SEEDS = ["a red ball", "a house"], [7, 8]


def random_layout(k: int = K, b: int = 3):
    return torch.randn(b, k, 4, 4, generator=torch.Generator().manual_seed(1))


def batch_keys(batch, step: int = 0) -> list[tuple]:
    return [(0, image_id, step) for image_id in batch.id]


def with_effect(generator: ControlNet) -> ControlNet:
    """Return the generator with noise in its zero convolutions: at zero a layout has no effect to compare."""
    with torch.no_grad():
        for i, p in enumerate(generator.parameters()):
            if not p.any():
                p.normal_(std=0.1, generator=torch.Generator().manual_seed(i))
    return generator


def with_scheduler(pipeline: StableDiffusion, **changes) -> StableDiffusion:
    scheduler = DDPMScheduler.from_config(pipeline.scheduler.config, **changes)
    parts = {name: getattr(pipeline, name) for name in ("vae", "text_encoder", "tokenizer", "unet", "source")}
    return StableDiffusion(**parts, scheduler=scheduler)


# ---- loss


def reference_loss(controlnet: ControlNetModel, pipeline: StableDiffusion, batch, layout, keys):
    """Return the loss of diffusers' train_controlnet.py, with keyed noise and half of the prompts dropped."""
    shape = (4, 8, 8)
    z = encode_latents(pipeline.vae, batch.image, keyed_normal(shape, [(*k, "posterior") for k in keys])).detach()
    noise = keyed_normal(shape, [(*k, "noise") for k in keys])
    timesteps = (keyed_uniform([(*k, "timestep") for k in keys]) * 1000).long()
    keep = keyed_uniform([(*k, "prompt") for k in keys]) >= 0.5
    text = pipeline.encode_prompts([c if k else "" for c, k in zip(batch.caption, keep, strict=True)])
    noisy = pipeline.scheduler.add_noise(z, noise, timesteps)
    down, middle = controlnet(
        noisy, timesteps, encoder_hidden_states=text, controlnet_cond=resize(layout, (8, 8)), return_dict=False
    )
    predicted = pipeline.unet(
        noisy,
        timesteps,
        encoder_hidden_states=text,
        down_block_additional_residuals=down,
        mid_block_additional_residual=middle,
    ).sample
    velocity = pipeline.scheduler.config.prediction_type == "v_prediction"
    target = pipeline.scheduler.get_velocity(z, noise, timesteps) if velocity else noise
    return F.mse_loss(predicted, target, reduction="none").flatten(1).mean(1).mean()


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_loss_equals_that_of_a_plain_diffusers_loop(pipeline, batch, prediction):
    pipeline = with_scheduler(pipeline, prediction_type=prediction)
    generator = ControlNet(base=pipeline, channels=K, prompt_dropout=0.5, seed=3)
    with torch.random.fork_rng():
        torch.manual_seed(stable_seed(3, "controlnet"))
        reference = ControlNetModel.from_unet(
            pipeline.unet, conditioning_channels=K, conditioning_embedding_out_channels=(32,)
        )
    optimizers = [torch.optim.AdamW(m.parameters(), lr=1e-2) for m in (generator.controlnet, reference)]
    for step in range(2):
        keys = batch_keys(batch, step)
        losses = (
            generator.loss(generator.encode(batch.image), batch.caption, random_layout(), keys).mean(),
            reference_loss(reference, pipeline, batch, random_layout(), keys),
        )
        for loss, optimizer in zip(losses, optimizers, strict=True):
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        assert losses[0].item() == losses[1].item()
    pairs = zip(generator.controlnet.parameters(), reference.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize(("prediction", "power"), [("epsilon", 0), ("v_prediction", 1)])
def test_loss_weights_are_min_snr(pipeline, batch, prediction, power):
    pipeline = with_scheduler(pipeline, prediction_type=prediction)
    keys = batch_keys(batch)
    plain, weighted = (ControlNet(base=pipeline, channels=K, snr_gamma=gamma) for gamma in (None, 5.0))

    def loss(generator, *timesteps):
        return generator.loss(generator.encode(batch.image), batch.caption, random_layout(), keys, *timesteps)

    timesteps = (keyed_uniform([(*k, "timestep") for k in keys]) * 1000).long()
    alphas = pipeline.scheduler.alphas_cumprod[timesteps]
    snr = alphas / (1 - alphas)
    assert torch.allclose(loss(weighted) / loss(plain), snr.clamp(max=5) / (snr + power), rtol=1e-5)
    # At fixed timesteps, as in validation, the loss is the same whatever training weighs it by.
    fixed = torch.tensor([10, 400, 990])
    assert torch.equal(loss(plain, fixed), loss(weighted, fixed))


def test_loss_of_an_image_depends_on_its_key_alone(pipeline, batch):
    generator = ControlNet(base=pipeline, channels=K, prompt_dropout=0.5)
    keys, layout = batch_keys(batch, 5), random_layout()
    together = generator.loss(generator.encode(batch.image), batch.caption, layout, keys)
    alone = generator.loss(generator.encode(batch.image[1:2]), batch.caption[1:2], layout[1:2], keys[1:2])
    assert torch.allclose(together[1], alone[0], rtol=1e-5)


# ---- sampling


def diffusers_sample(generator: ControlNet, layout, sampler, guidance, control_end=1.0, output_type="pt"):
    """Return the samples of diffusers' pipeline of the same networks and noise, in four steps."""
    base = generator.base
    pipeline = StableDiffusionControlNetPipeline(
        vae=base.vae,
        text_encoder=base.text_encoder,
        tokenizer=base.tokenizer,
        unet=base.unet,
        controlnet=generator.controlnet,
        scheduler=SAMPLERS[sampler].from_config(base.scheduler.config),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    noise = torch.stack([torch.randn((4, 16, 16), generator=torch.Generator().manual_seed(s)) for s in SEEDS])
    return pipeline(
        prompt=PROMPTS,
        negative_prompt=["fog"] * 2,
        image=resize(layout, (16, 16)),
        latents=noise,
        num_inference_steps=4,
        guidance_scale=guidance,
        control_guidance_end=control_end,
        output_type=output_type,
    ).images


@pytest.mark.parametrize("k", [K, 4])  # diffusers takes an image of 4 channels for latents; this generator must not
@pytest.mark.parametrize("sampler", sorted(SAMPLERS))
@pytest.mark.parametrize("guidance", [1.0, 5.0])
def test_sample_equals_that_of_the_diffusers_pipeline(pipeline, sampler, guidance, k):
    generator, layout = with_effect(ControlNet(base=pipeline, channels=k)), random_layout(k, 2)
    # 64 px: diffusers needs a layout of the size of the latents, and that to be a multiple of 8.
    samples = generator.sample(PROMPTS, layout, SEEDS, (64, 64), sampler, 4, guidance, "fog")
    assert torch.allclose((samples + 1) / 2, diffusers_sample(generator, layout, sampler, guidance), atol=1e-4)


def test_sample_at_guidance_below_1_has_none_as_in_diffusers(pipeline):
    generator, layout = with_effect(ControlNet(base=pipeline, channels=K)), random_layout(K, 2)
    samples = generator.sample_latents(PROMPTS, layout, SEEDS, (64, 64), "ddim", 4, 0.5, "fog")
    assert torch.allclose(samples, diffusers_sample(generator, layout, "ddim", 0.5, 1.0, "latent"), atol=1e-4)
    assert torch.equal(samples, generator.sample_latents(PROMPTS, layout, SEEDS, (64, 64), "ddim", 4, 1.0))


@pytest.mark.parametrize(("control_end", "steered_steps"), [(0.1, 0), (0.5, 2), (0.7, 2), (0.75, 3)])
def test_sample_beyond_control_end_equals_diffusers_without_running_the_controlnet(
    pipeline, control_end, steered_steps
):
    generator, layout = with_effect(ControlNet(base=pipeline, channels=K)), random_layout(K, 2)
    expected = diffusers_sample(generator, layout, "dpm", 5.0, control_end, "latent")
    calls = []
    generator.controlnet.register_forward_hook(lambda *_: calls.append(1))
    latents = generator.sample_latents(PROMPTS, layout, SEEDS, (64, 64), "dpm", 4, 5.0, "fog", control_end=control_end)
    assert torch.allclose(latents, expected, atol=1e-4) and len(calls) == steered_steps


def sample_without_reuse(generator: ControlNet, layout, sampler, guidance, seeds):
    """Return the latents of three sampling steps in which nothing is reused."""
    base, captions = generator.base, PROMPTS[: len(seeds)]
    scheduler = SAMPLERS[sampler].from_config(base.scheduler.config)
    scheduler.set_timesteps(3)
    z = torch.stack([torch.randn((4, 8, 8), generator=torch.Generator().manual_seed(s)) for s in seeds])
    guided = guidance != 1
    text = base.encode_prompts([""] * len(captions) + captions if guided else captions)
    hint = torch.cat([layout] * 2) if guided and layout is not None else layout
    for t in scheduler.timesteps:
        noisy = scheduler.scale_model_input(torch.cat([z] * 2) if guided else z, t)
        predicted = generator.denoise(noisy, t, text, hint)
        if guided:
            unconditional, conditional = predicted.chunk(2)
            predicted = unconditional + guidance * (conditional - unconditional)
        z = scheduler.step(predicted, t, z, return_dict=False)[0]
    return z


@pytest.mark.parametrize("hint", ["latent", "image", None])
@pytest.mark.parametrize(("sampler", "guidance"), [("ddim", 5.0), ("dpm", 5.0), ("dpm", 1.0)])
@pytest.mark.parametrize("count", [1, 2])
@torch.no_grad()
def test_sample_with_activation_reuse_is_bit_identical(pipeline, hint, sampler, guidance, count):
    generator = with_effect(ControlNet(base=pipeline, channels=K, hint=hint or "latent"))
    layout = random_layout(K, count) if hint else None
    latents = generator.sample_latents(PROMPTS[:count], layout, SEEDS[:count], (32, 32), sampler, 3, guidance)
    assert torch.equal(latents, sample_without_reuse(generator, layout, sampler, guidance, SEEDS[:count]))


def test_sample_encodes_the_hint_once_and_restores_all_modules_also_after_an_error(pipeline):
    generator, calls = ControlNet(base=pipeline, channels=K), []
    networks = (pipeline.unet, generator.controlnet)
    before = [dict(network.named_modules()) for network in networks]
    generator.controlnet.controlnet_cond_embedding.register_forward_hook(lambda *_: calls.append(1))
    generator.sample(["a"], random_layout(K, 1), [1], (32, 32), steps=3)
    assert len(calls) == 1
    with pytest.raises(RuntimeError):
        generator.sample(["a"], random_layout(K + 1, 1), [1], (32, 32), steps=3)
    with pytest.raises(KeyboardInterrupt), replace_submodules(pipeline.unet, shared_self_attention(pipeline.unet)):
        raise KeyboardInterrupt
    assert [dict(network.named_modules()) for network in networks] == before


def test_sample_of_an_image_does_not_depend_on_its_batch(pipeline):
    generator = with_effect(ControlNet(base=pipeline, channels=K))
    layout = random_layout()
    together = generator.sample(["a", "b", "c"], layout, [1, 2, 3], (32, 32), "ddim", 2)
    alone = generator.sample(["b"], layout[1:2], [2], (32, 32), "ddim", 2)
    assert torch.allclose(together[1], alone[0], atol=1e-4)
    mismatched = generator.sample(["b"], layout[:1], [2], (32, 32), "ddim", 2)
    assert not torch.allclose(alone, mismatched, atol=1e-2)


# ---- hint


def test_hint_is_the_map_of_pixels_or_its_mean_over_latent_cells(pipeline, batch):
    lines = torch.zeros(3, 1, 32, 32)
    lines[:, :, :, 3::8] = 1  # one pixel wide, and never one of the four in the middle of a cell of four by four
    hints = {}
    for hint in ("image", "latent"):
        generator = ControlNet(base=pipeline, channels=1, hint=hint)
        generator.controlnet.register_forward_pre_hook(lambda _, args, hint=hint: hints.update({hint: args[3]}))
        generator.loss(generator.encode(batch.image), batch.caption, lines, batch_keys(batch))
    assert torch.equal(hints["image"], lines)
    assert hints["latent"].shape == (3, 1, 8, 8)
    assert hints["latent"].mean().item() == pytest.approx(1 / 8, rel=0.1)


@pytest.mark.parametrize("k", [1, 11])
def test_hint_encoder_of_an_untrained_controlnet_passes_the_layout(pipeline, k):
    generator = ControlNet(base=pipeline, channels=k, hint="image")
    layout = torch.randint(2, (3, k, 32, 32), generator=torch.Generator().manual_seed(0)).float()
    encoded = []
    generator.controlnet.controlnet_cond_embedding.conv_out.register_forward_pre_hook(lambda _, x: encoded.extend(x))
    generator.denoise(torch.zeros(3, 4, 8, 8), torch.tensor(0), pipeline.encode_prompts([""] * 3), layout)
    assert encoded[0].shape[2:] == (8, 8) and 0.02 < encoded[0].std((0, 2, 3)).mean() < 2


# ---- training


@pytest.mark.parametrize("hint", ["latent", "image"])
def test_gradients_reach_the_controlnet_alone(pipeline, batch, hint):
    generator = ControlNet(base=pipeline, channels=K, hint=hint).train()
    assert {name.partition(".")[0] for name in generator.state_dict()} == {"controlnet"}
    assert not any(network.training for network in generator.networks.values())
    generator.loss(generator.encode(batch.image), batch.caption, random_layout(), batch_keys(batch)).mean().backward()
    assert all(p.grad is not None for p in generator.parameters())
    assert all(p.grad is None for network in generator.networks.values() for p in network.parameters())


def test_gradients_pass_the_upper_half_of_the_unet_alone_with_fused_attention(pipeline, batch):
    """Nothing trained lies before the middle of the U-Net, so its downward half runs without a graph in memory."""
    generator, has_graph = with_effect(ControlNet(base=pipeline, channels=K)), {}
    unet = pipeline.unet
    blocks = {"middle": unet.mid_block}
    blocks |= {f"down {i}": block for i, block in enumerate(unet.down_blocks)}
    blocks |= {f"up {i}": block for i, block in enumerate(unet.up_blocks)}

    def record(name):
        return lambda _, args, out: has_graph.update({name: (out[0] if isinstance(out, tuple) else out).requires_grad})

    handles = [block.register_forward_hook(record(name)) for name, block in blocks.items()]
    generator.loss(generator.encode(batch.image), batch.caption, random_layout(), batch_keys(batch)).mean().backward()
    for handle in handles:
        handle.remove()
    assert has_graph == {name: name.startswith("up") for name in blocks}
    processors = [*unet.attn_processors.values(), *generator.controlnet.attn_processors.values()]
    assert all(isinstance(processor, AttnProcessor2_0) for processor in processors)


def test_checkpointing_changes_memory_alone(pipeline, batch):
    gradients = []
    for checkpointing in (False, True):
        generator = with_effect(ControlNet(base=pipeline, channels=K, checkpointing=checkpointing)).train()
        loss = generator.loss(generator.encode(batch.image), batch.caption, random_layout(), batch_keys(batch))
        loss.mean().backward()
        gradients.append([p.grad for p in generator.parameters()])
    pipeline.unet.disable_gradient_checkpointing()
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(*gradients, strict=True))


def test_frozen_networks_move_with_the_generator(pipeline):
    generator = ControlNet(base=pipeline, channels=K)
    generator.double()
    dtypes = {next(network.parameters()).dtype for network in generator.networks.values()}
    generator.float()
    assert dtypes == {torch.float64}


def test_channels_last_changes_rounding_alone(pipeline):
    """In float64, because these random networks amplify the rounding of float32 a thousandfold."""
    # Copies, because networks of the shared pipeline would stay changed.
    contiguous = copy.deepcopy(with_effect(ControlNet(base=pipeline, channels=K))).double()
    channels_last = copy.deepcopy(contiguous).to(memory_format=torch.channels_last)
    random, results = torch.Generator().manual_seed(0), []
    noisy, text = (torch.randn(size, generator=random).double() for size in ((3, 4, 8, 8), (3, 77, 32)))
    for generator in (contiguous, channels_last):
        predicted = generator.denoise(noisy, torch.tensor([5, 300, 900]), text, random_layout().double())
        predicted.square().mean().backward()
        results.append([predicted.detach(), *(p.grad for p in generator.parameters())])
    assert not torch.equal(results[0][0], results[1][0])
    assert channels_last.controlnet.conv_in.weight.stride()[1] == 1
    tolerance = 1e-9 * float(results[0][0].abs().max())
    for expected, result in zip(*results, strict=True):
        assert torch.allclose(expected, result, rtol=0, atol=tolerance)
