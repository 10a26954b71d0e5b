"""Latents of two images in 20 steps of DPM-Solver++, with guidance, and with the layout in every step."""

from dataclasses import replace

import torch
from diffusers import DPMSolverMultistepScheduler, StableDiffusionControlNetPipeline, UNet2DConditionModel
from torch import Tensor

from lumen.diffusion.loading import UNET_CONFIGS, load
from lumen.diffusion.stable_diffusion import StableDiffusion
from lumen.generators.controlnet import ControlNet

PEER = "diffusers' StableDiffusionControlNetPipeline"
LIBRARIES = ("diffusers", "torch")
ROUNDS = 5
TOLERANCE = 1e-4
TARGET_SPEEDUP = 1.1
BOTTLENECK = "the encoded layout, and keys and values of the caption, are a fifteenth of the operations"
MIN_FLOP_RATIO = 1.03
CAPTIONS, SEEDS, GUIDANCE = ["a red house under trees", "a road in snow"], [7, 8], 5.0


def inputs(small: bool = False, control_end: float = 1.0) -> tuple:
    """Return untrained networks and layouts of 128 px, so 32 x 32 latents, for ControlNet's strided encoder."""
    torch.manual_seed(0)
    pixels, steps = (64, 4) if small else (128, 20)
    # diffusers' `attention_head_dim` of a U-Net is the number of heads; these have 16 and 32 channels.
    unet = UNet2DConditionModel(**UNET_CONFIGS["tiny"] | {"attention_head_dim": 2}).requires_grad_(False).eval()
    generator = build_generator(replace(load("none", "tiny"), unet=unet))
    return generator, torch.rand(2, 20, pixels, pixels), steps, control_end


def build_generator(base: StableDiffusion) -> ControlNet:
    """Return an untrained ControlNet.

    Weights that start at zero are filled with noise, as after training, so that the layout has an effect.
    """
    generator = ControlNet(base=base, channels=20, hint="image").requires_grad_(False)
    for weight in generator.parameters():
        if not weight.any():
            weight.normal_(std=0.1)
    return generator


def peer(generator: ControlNet, layout: Tensor, steps: int, control_end: float) -> Tensor:
    """Return the latents by diffusers' pipeline."""
    base = generator.base
    parts = {name: getattr(base, name) for name in ("vae", "text_encoder", "tokenizer", "unet")}
    pipeline = StableDiffusionControlNetPipeline(
        **parts,
        controlnet=generator.controlnet,
        scheduler=DPMSolverMultistepScheduler.from_config(base.scheduler.config),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    cells = [side // base.downscale for side in layout.shape[2:]]
    noise = [torch.randn((4, *cells), generator=torch.Generator().manual_seed(seed)) for seed in SEEDS[: len(layout)]]
    return pipeline(
        CAPTIONS[: len(layout)],
        layout,
        latents=torch.stack(noise),
        num_inference_steps=steps,
        guidance_scale=GUIDANCE,
        control_guidance_end=control_end,
        output_type="latent",
    ).images


def ours(generator: ControlNet, layout: Tensor, steps: int, control_end: float) -> Tensor:
    """Return the latents by our sampler."""
    b, size = len(layout), layout.shape[2:]
    captions, seeds = CAPTIONS[:b], SEEDS[:b]
    return generator.sample_latents(captions, layout, seeds, size, "dpm", steps, GUIDANCE, control_end=control_end)
