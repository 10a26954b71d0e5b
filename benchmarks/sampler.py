"""Latents of two images in 20 steps of DPM-Solver++, guided, steered by a layout to the end."""

import torch
from diffusers import DPMSolverMultistepScheduler, StableDiffusionControlNetPipeline
from torch import Tensor

from lumen.diffusion.stable_diffusion import load
from lumen.generators.controlnet import ControlledDiffusion

PEER = "diffusers' StableDiffusionControlNetPipeline"
LIBRARIES = ("diffusers", "torch")
ROUNDS = 5
APART = 1e-4
TARGET = 1.1
FLOPS = 1.03
CAPTIONS, SEEDS, GUIDANCE = ["a red house under trees", "a road in snow"], [7, 8], 5.0


def inputs(small: bool = False, control_end: float = 1.0) -> tuple:
    """Untrained networks and layouts of 128 px, so 32 x 32 latents, that come in through ControlNet's strided encoder.

    Where the ControlNet begins at zero it is filled with noise, as after training, or no layout would steer.
    """
    torch.manual_seed(0)
    pixels, steps = (64, 4) if small else (128, 20)
    diffusion = ControlledDiffusion(load("none", "tiny"), 20, "image").requires_grad_(False)
    for weight in diffusion.parameters():
        if not weight.any():
            weight.normal_(std=0.1)
    return diffusion, torch.rand(2, 20, pixels, pixels), steps, control_end


def peer(diffusion: ControlledDiffusion, layout: Tensor, steps: int, control_end: float) -> Tensor:
    parts = {name: getattr(diffusion.pipeline, name) for name in ("vae", "text_encoder", "tokenizer", "unet")}
    scheduler = DPMSolverMultistepScheduler.from_config(diffusion.pipeline.scheduler.config)
    pipeline = StableDiffusionControlNetPipeline(
        **parts,
        controlnet=diffusion.controlnet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    cells = [side // diffusion.pipeline.downscale for side in layout.shape[2:]]
    noise = [torch.randn((4, *cells), generator=torch.Generator().manual_seed(seed)) for seed in SEEDS]
    return pipeline(
        CAPTIONS,
        layout,
        latents=torch.stack(noise),
        num_inference_steps=steps,
        guidance_scale=GUIDANCE,
        control_guidance_end=control_end,
        output_type="latent",
    ).images


def ours(diffusion: ControlledDiffusion, layout: Tensor, steps: int, control_end: float) -> Tensor:
    return diffusion.latents(CAPTIONS, layout, SEEDS, layout.shape[2:], "dpm", steps, GUIDANCE, control_end=control_end)
