"""The controlled diffusion against diffusers' own classes, and what must stay out of training."""

import copy

import pytest
import torch
import torch.nn.functional as F
from diffusers import ControlNetModel, DDPMScheduler, StableDiffusionControlNetPipeline
from diffusers.models.attention_processor import AttnProcessor2_0

from lumen.core.patching import standing
from lumen.core.random import keyed_normal, stable_seed, keyed_uniform
from lumen.core.resize import resize
from lumen.diffusion.activation_reuse import shared
from lumen.diffusion.stable_diffusion import Pipeline, latent
from lumen.generators.controlnet import SAMPLERS, ControlledDiffusion

K = 5


def random_layout(k: int = K, b: int = 3):
    return torch.randn(b, k, 4, 4, generator=torch.Generator().manual_seed(1))


def awake(diffusion: ControlledDiffusion) -> ControlledDiffusion:
    """Its zero convolutions filled with noise, as after training: at zero a layout has no effect to compare."""
    with torch.no_grad():
        for i, p in enumerate(diffusion.parameters()):
            if not p.any():
                p.normal_(std=0.1, generator=torch.Generator().manual_seed(i))
    return diffusion


def with_scheduler(pipeline: Pipeline, **changes) -> Pipeline:
    scheduler = DDPMScheduler.from_config(pipeline.scheduler.config, **changes)
    parts = {name: getattr(pipeline, name) for name in ("vae", "text_encoder", "tokenizer", "unet", "source")}
    return Pipeline(**parts, scheduler=scheduler)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_the_loss_is_the_one_of_a_plain_diffusers_loop(pipeline, batch, prediction):
    pipeline = with_scheduler(pipeline, prediction_type=prediction)
    ours = ControlledDiffusion(pipeline, K, prompt_dropout=0.5, seed=3)
    with torch.random.fork_rng():
        torch.manual_seed(stable_seed(3, "controlnet"))
        theirs = ControlNetModel.from_unet(
            pipeline.unet, conditioning_channels=K, conditioning_embedding_out_channels=(32,)
        )
    optimizers = [torch.optim.AdamW(m.parameters(), lr=1e-2) for m in (ours.controlnet, theirs)]
    for step in range(2):
        keys = [(0, i, step) for i in batch.id]
        losses = (
            ours.loss(ours.moments(batch.image), batch.caption, random_layout(), keys).mean(),
            plain(theirs, pipeline, batch, random_layout(), keys),
        )
        for loss, optimizer in zip(losses, optimizers, strict=True):
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        assert losses[0].item() == losses[1].item()
    assert all(torch.equal(a, b) for a, b in zip(ours.controlnet.parameters(), theirs.parameters(), strict=True))


def plain(controlnet, pipeline, batch, layout, keys):
    """One training step of diffusers' train_controlnet.py, with noise by key and half of the prompts dropped."""
    shape = (4, 8, 8)
    z = latent(pipeline.vae, batch.image, keyed_normal(shape, [(*k, "posterior") for k in keys])).detach()
    noise = keyed_normal(shape, [(*k, "noise") for k in keys])
    timesteps = (keyed_uniform([(*k, "timestep") for k in keys]) * 1000).long()
    kept = keyed_uniform([(*k, "prompt") for k in keys]) >= 0.5
    prompts = [c if keep else "" for c, keep in zip(batch.caption, kept, strict=True)]
    text = pipeline.embed(prompts)
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


PROMPTS, SEEDS = ["a red ball", "a house"], [7, 8]


def theirs(diffusion, layout, sampler, guidance, end=1.0, kind="pt"):
    """diffusers' own pipeline of the same networks and noise, in four steps."""
    pipeline = diffusion.pipeline
    whole = StableDiffusionControlNetPipeline(
        vae=pipeline.vae,
        text_encoder=pipeline.text_encoder,
        tokenizer=pipeline.tokenizer,
        unet=pipeline.unet,
        controlnet=diffusion.controlnet,
        scheduler=SAMPLERS[sampler].from_config(pipeline.scheduler.config),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    whole.set_progress_bar_config(disable=True)
    noise = torch.stack([torch.randn((4, 16, 16), generator=torch.Generator().manual_seed(s)) for s in SEEDS])
    return whole(
        prompt=PROMPTS,
        negative_prompt=["fog"] * 2,
        image=resize(layout, (16, 16)),
        latents=noise,
        num_inference_steps=4,
        guidance_scale=guidance,
        control_guidance_end=end,
        output_type=kind,
    ).images


@pytest.mark.parametrize("k", [K, 4])  # diffusers takes an image of 4 channels for latents: ours must not
@pytest.mark.parametrize("sampler", sorted(SAMPLERS))
@pytest.mark.parametrize("guidance", [1.0, 5.0])
def test_sampling_is_that_of_the_diffusers_pipeline(pipeline, sampler, guidance, k):
    diffusion, layout = awake(ControlledDiffusion(pipeline, k)), random_layout(k, 2)
    # 64 px: the pipeline wants a layout of the latents' size, and that to be a multiple of 8.
    ours = diffusion.sample(PROMPTS, layout, SEEDS, (64, 64), sampler, 4, guidance, "fog")
    assert torch.allclose((ours + 1) / 2, theirs(diffusion, layout, sampler, guidance), atol=1e-4)


@pytest.mark.parametrize(("end", "steered"), [(0.1, 0), (0.5, 2), (0.7, 2), (0.75, 3)])
def test_where_control_ends_the_controlnet_is_not_run_and_all_is_as_if_it_were(pipeline, end, steered):
    diffusion, layout = awake(ControlledDiffusion(pipeline, K)), random_layout(K, 2)
    expected = theirs(diffusion, layout, "dpm", 5.0, end, "latent")
    runs = []
    diffusion.controlnet.register_forward_hook(lambda *_: runs.append(1))
    ours = diffusion.latents(PROMPTS, layout, SEEDS, (64, 64), "dpm", 4, 5.0, "fog", control_end=end)
    assert torch.allclose(ours, expected, atol=1e-4) and len(runs) == steered


def plainly(diffusion, layout, sampler, guidance, seeds):
    """The loop of `sample` with nothing spared."""
    pipeline, captions = diffusion.pipeline, PROMPTS[: len(seeds)]
    scheduler = SAMPLERS[sampler].from_config(pipeline.scheduler.config)
    scheduler.set_timesteps(3)
    z = torch.stack([torch.randn((4, 8, 8), generator=torch.Generator().manual_seed(s)) for s in seeds])
    guided = guidance != 1
    text = pipeline.embed([""] * len(captions) + captions if guided else captions)
    hint = torch.cat([layout] * 2) if guided and layout is not None else layout
    for t in scheduler.timesteps:
        noisy = scheduler.scale_model_input(torch.cat([z] * 2) if guided else z, t)
        predicted = diffusion.denoise(noisy, t, text, hint)
        if guided:
            plain, prompted = predicted.chunk(2)
            predicted = plain + guidance * (prompted - plain)
        z = scheduler.step(predicted, t, z, return_dict=False)[0]
    return z


@pytest.mark.parametrize("hint", ["latent", "image", None])
@pytest.mark.parametrize(("sampler", "guidance"), [("ddim", 5.0), ("dpm", 5.0), ("dpm", 1.0)])
@pytest.mark.parametrize("count", [1, 2])
@torch.no_grad()
def test_what_sampling_spares_changes_no_bit(pipeline, hint, sampler, guidance, count):
    diffusion = awake(ControlledDiffusion(pipeline, K, hint or "latent"))
    layout = random_layout(K, count) if hint else None
    ours = diffusion.latents(PROMPTS[:count], layout, SEEDS[:count], (32, 32), sampler, 3, guidance)
    assert torch.equal(ours, plainly(diffusion, layout, sampler, guidance, SEEDS[:count]))


def test_the_encoder_of_the_hint_runs_once_and_every_part_is_back_in_its_place_even_after_a_failure(pipeline):
    diffusion, runs = ControlledDiffusion(pipeline, K), []
    networks = (pipeline.unet, diffusion.controlnet)
    before = [dict(network.named_modules()) for network in networks]
    diffusion.controlnet.controlnet_cond_embedding.register_forward_hook(lambda *_: runs.append(1))
    diffusion.sample(["a"], random_layout(K, 1), [1], (32, 32), steps=3)
    assert len(runs) == 1
    with pytest.raises(RuntimeError):
        diffusion.sample(["a"], random_layout(K + 1, 1), [1], (32, 32), steps=3)
    with pytest.raises(KeyboardInterrupt), standing(pipeline.unet, shared(pipeline.unet)):
        raise KeyboardInterrupt
    assert [dict(network.named_modules()) for network in networks] == before


def test_an_image_does_not_depend_on_its_batch(pipeline):
    diffusion = awake(ControlledDiffusion(pipeline, K))
    layout = random_layout()
    together = diffusion.sample(["a", "b", "c"], layout, [1, 2, 3], (32, 32), "ddim", 2)
    alone = diffusion.sample(["b"], layout[1:2], [2], (32, 32), "ddim", 2)
    assert torch.allclose(together[1], alone[0], atol=1e-4)
    other = diffusion.sample(["b"], layout[:1], [2], (32, 32), "ddim", 2)
    assert not torch.allclose(alone, other, atol=1e-2)


@pytest.mark.parametrize("hint", ["latent", "image"])
def test_only_the_controlnet_learns(pipeline, batch, hint):
    diffusion = ControlledDiffusion(pipeline, K, hint).train()
    assert {name.partition(".")[0] for name in diffusion.state_dict()} == {"controlnet"}
    assert not any(network.training for network in diffusion.networks.values())
    diffusion.loss(
        diffusion.moments(batch.image), batch.caption, random_layout(), [(0, i, 0) for i in batch.id]
    ).mean().backward()
    assert all(p.grad is not None for p in diffusion.parameters())
    assert all(p.grad is None for network in diffusion.networks.values() for p in network.parameters())


def test_gradients_pass_the_upward_half_of_the_unet_alone_through_fused_attention(pipeline, batch):
    """Nothing that learns lies before its middle, so its downward half runs without a graph, which is memory."""
    diffusion, graph = awake(ControlledDiffusion(pipeline, K)), {}
    unet = pipeline.unet
    blocks = {"middle": unet.mid_block}
    blocks |= {f"down {i}": block for i, block in enumerate(unet.down_blocks)}
    blocks |= {f"up {i}": block for i, block in enumerate(unet.up_blocks)}

    def seen(name):
        return lambda _, given, out: graph.update({name: (out[0] if isinstance(out, tuple) else out).requires_grad})

    handles = [block.register_forward_hook(seen(name)) for name, block in blocks.items()]
    keys = [(0, i, 0) for i in batch.id]
    diffusion.loss(diffusion.moments(batch.image), batch.caption, random_layout(), keys).mean().backward()
    for handle in handles:
        handle.remove()
    assert graph == {name: name.startswith("up") for name in blocks}
    processors = [*unet.attn_processors.values(), *diffusion.controlnet.attn_processors.values()]
    assert all(isinstance(each, AttnProcessor2_0) for each in processors)


def test_a_map_of_pixels_enters_as_it_is_or_averaged_over_the_cells_of_the_latents(pipeline, batch):
    lines = torch.zeros(3, 1, 32, 32)
    lines[:, :, :, 3::8] = 1  # one pixel wide, and never one of the four in the middle of a cell of four by four
    seen = {}
    for hint in ("image", "latent"):
        diffusion = ControlledDiffusion(pipeline, 1, hint)
        diffusion.controlnet.register_forward_pre_hook(lambda _, given, hint=hint: seen.update({hint: given[3]}))
        diffusion.loss(diffusion.moments(batch.image), batch.caption, lines, [(0, i, 0) for i in batch.id])
    assert torch.equal(seen["image"], lines)
    assert seen["latent"].shape == (3, 1, 8, 8)
    assert seen["latent"].mean().item() == pytest.approx(1 / 8, rel=0.1)


@pytest.mark.parametrize("k", [1, 11])
def test_a_layout_is_not_lost_on_its_way_into_an_untrained_controlnet(pipeline, k):
    diffusion = ControlledDiffusion(pipeline, k, "image")
    layout = torch.randint(2, (3, k, 32, 32), generator=torch.Generator().manual_seed(0)).float()
    seen = []
    diffusion.controlnet.controlnet_cond_embedding.conv_out.register_forward_pre_hook(lambda _, x: seen.extend(x))
    diffusion.denoise(torch.zeros(3, 4, 8, 8), torch.tensor(0), pipeline.embed([""] * 3), layout)
    assert seen[0].shape[2:] == (8, 8) and 0.02 < seen[0].std((0, 2, 3)).mean() < 2


def test_frozen_networks_move_with_the_module(pipeline):
    diffusion = ControlledDiffusion(pipeline, K)
    diffusion.double()
    moved = {next(network.parameters()).dtype for network in diffusion.networks.values()}
    diffusion.float()
    assert moved == {torch.float64}


def test_channels_last_changes_rounding_alone(pipeline):
    """As on a GPU; in float64, as these random networks make a thousand times more of what float32 leaves off."""
    plain = copy.deepcopy(awake(ControlledDiffusion(pipeline, K))).double()  # networks of its own: they stay changed
    last = copy.deepcopy(plain).to(memory_format=torch.channels_last)
    draw, found = torch.Generator().manual_seed(0), []
    noisy, text = (torch.randn(size, generator=draw).double() for size in ((3, 4, 8, 8), (3, 77, 32)))
    for diffusion in (plain, last):
        predicted = diffusion.denoise(noisy, torch.tensor([5, 300, 900]), text, random_layout().double())
        predicted.square().mean().backward()
        found.append([predicted, *(p.grad for p in diffusion.parameters())])
    assert not torch.equal(found[0][0], found[1][0]) and last.controlnet.conv_in.weight.stride()[1] == 1
    for one, other in zip(*found, strict=True):
        assert torch.allclose(one, other, rtol=0, atol=1e-9 * float(found[0][0].abs().max()))


def test_checkpointing_changes_memory_alone(pipeline, batch):
    keys = [(0, i, 0) for i in batch.id]
    gradients = []
    for checkpointing in (False, True):
        diffusion = awake(ControlledDiffusion(pipeline, K, checkpointing=checkpointing)).train()
        diffusion.loss(diffusion.moments(batch.image), batch.caption, random_layout(), keys).mean().backward()
        gradients.append([p.grad for p in diffusion.parameters()])
    pipeline.unet.disable_gradient_checkpointing()
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(*gradients, strict=True))


@pytest.mark.parametrize(("prediction", "power"), [("epsilon", 0), ("v_prediction", 1)])
def test_min_snr_weights(pipeline, batch, prediction, power):
    pipeline = with_scheduler(pipeline, prediction_type=prediction)
    keys = [(0, i, 0) for i in batch.id]
    plain, weighted = (ControlledDiffusion(pipeline, K, snr_gamma=gamma) for gamma in (None, 5.0))
    ratio = torch.div(
        *(d.loss(d.moments(batch.image), batch.caption, random_layout(), keys) for d in (weighted, plain))
    )
    kept = pipeline.scheduler.alphas_cumprod[(keyed_uniform([(*k, "timestep") for k in keys]) * 1000).long()]
    snr = kept / (1 - kept)
    assert torch.allclose(ratio, snr.clamp(max=5) / (snr + power), rtol=1e-5)
    # At timesteps that are given, as in validation, the error is the same whatever training weighs it by.
    given = [
        d.loss(d.moments(batch.image), batch.caption, random_layout(), keys, torch.tensor([10, 400, 990]))
        for d in (plain, weighted)
    ]
    assert torch.equal(*given)


def test_the_loss_of_an_image_depends_on_its_key_alone(pipeline, batch):
    diffusion = ControlledDiffusion(pipeline, K, prompt_dropout=0.5)
    keys, layout = [(0, i, 5) for i in batch.id], random_layout()
    together = diffusion.loss(diffusion.moments(batch.image), batch.caption, layout, keys)
    alone = diffusion.loss(diffusion.moments(batch.image[1:2]), batch.caption[1:2], layout[1:2], keys[1:2])
    assert torch.allclose(together[1], alone[0], rtol=1e-5)
