"""A training step of a small Stable Diffusion at 128 px, its latents and captions kept instead of encoded anew.

The peer is the step of diffusers' train_controlnet.py, written out with the classes that it uses. Both start from the
same weights and draw the same noise, so after the last step the ControlNets must be equal bit by bit.
"""

import copy
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, ControlNetModel, DDPMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from benchmarks._script import seconds_per_step
from lumen.core.random import keyed_normal, keyed_uniform
from lumen.diffusion.stable_diffusion import Pipeline, load
from lumen.generators.controlnet import ControlledDiffusion

PEER = "train_controlnet.py of diffusers: autoencoder and text encoder at every step"
LIBRARIES = ("diffusers", "torch", "transformers")
ROUNDS = 7
APART = 0.0
TARGET = 1.6
FLOPS = 1.95
MISSED = (
    "half of the operations are spared, but a fifth of the time: attention over heads of 4 to 8 channels and a "
    "thousand small calls take as long for few operations as the autoencoder's convolutions for many"
)
STEPS = 8  # of one call, beside which its preparations are small
DRAWS = ("posterior", "noise")
Hint = Callable[[], torch.Tensor]
CAPTIONS = ["a red ball on the grass", "a house under a night sky"]


def pipeline() -> Pipeline:
    """UNet of 3.3 M, autoencoder and text encoder in the proportions of Stable Diffusion 1.5."""
    torch.manual_seed(0)
    widths = (16, 32, 64, 64)
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
    tokenizer = load("none", "tiny").tokenizer
    text = CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=256, num_hidden_layers=6, num_attention_heads=4
    )
    unet = {"block_out_channels": (32, 64, 64, 64), "cross_attention_dim": 64, "attention_head_dim": 8}
    parts = {
        "vae": AutoencoderKL(block_out_channels=widths, layers_per_block=2, norm_num_groups=16, **blocks),
        "text_encoder": CLIPTextModel(text),
        "unet": UNet2DConditionModel(**unet),
    }
    for part in parts.values():
        part.requires_grad_(False).eval()
    schedule = DDPMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
    return Pipeline(**parts, tokenizer=tokenizer, scheduler=schedule, source="benchmark")


def begun(channels: int, hint: str) -> ControlledDiffusion:
    """A ControlNet in the middle of its training: at its start zeros leave most gradients at zero."""
    diffusion = ControlledDiffusion(pipeline(), channels, hint, keep_text=True)
    generator = torch.Generator().manual_seed(1)
    for parameter in diffusion.controlnet.parameters():
        if not parameter.any():
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.02
    return diffusion


def inputs(small: bool = False) -> tuple:
    """A batch of two images and their hints, and the weights that both sides start from."""
    diffusion, generator = begun(3, "image"), torch.Generator().manual_seed(2)
    size = 64 if small else 128
    image = torch.rand((2, 3, size, size), generator=generator) * 2 - 1
    hint = torch.rand((2, 3, size, size), generator=generator)
    diffusion.loss(moments := diffusion.moments(image), CAPTIONS, hint, keys(0))  # embeds the captions
    return diffusion, copy.deepcopy(diffusion.controlnet), image, moments, hint, 2 if small else STEPS


def keys(step: int) -> list[tuple]:
    return [(0, i, step) for i in range(2)]


def peer(diffusion: ControlledDiffusion, controlnet: ControlNetModel, image, moments, hint, steps: int) -> list:
    controlnet = copy.deepcopy(controlnet)
    plain(diffusion.pipeline, controlnet, image, lambda: hint, steps)
    return list(controlnet.parameters())


def ours(diffusion: ControlledDiffusion, controlnet: ControlNetModel, image, moments, hint, steps: int) -> list:
    diffusion.controlnet.load_state_dict(controlnet.state_dict())
    kept(diffusion, moments, lambda: hint, steps)
    return [parameter.detach().clone() for parameter in diffusion.controlnet.parameters()]


def script(path: Path, diffusion: ControlledDiffusion, controlnet, image, moments, hint, steps: int) -> float:
    diffusion.controlnet.load_state_dict(controlnet.state_dict())
    return steps * seconds_per_step(path, diffusion, image.shape[-1], len(image))


def plain(
    frozen: Pipeline, controlnet: ControlNetModel, image: torch.Tensor, hint: Hint, steps: int
) -> list[torch.Tensor]:
    """Some steps of train_controlnet.py; their losses."""
    optimizer = torch.optim.AdamW(controlnet.parameters(), lr=1e-3, weight_decay=1e-2)
    losses = []
    for step in range(steps):
        distribution = frozen.vae.encode(image).latent_dist
        posterior, noise = (keyed_normal(distribution.mean.shape[1:], [(*k, what) for k in keys(step)]) for what in DRAWS)
        latents = (distribution.mean + distribution.std * posterior) * frozen.vae.config.scaling_factor
        timesteps = (keyed_uniform([(*k, "timestep") for k in keys(step)]) * 1000).long()
        noisy = frozen.scheduler.add_noise(latents, noise, timesteps)
        ids = frozen.tokenizer(CAPTIONS, padding="max_length", max_length=77, truncation=True, return_tensors="pt")
        text = frozen.text_encoder(ids.input_ids, return_dict=False)[0]
        down, middle = controlnet(
            noisy, timesteps, encoder_hidden_states=text, controlnet_cond=hint(), return_dict=False
        )
        predicted = frozen.unet(
            noisy,
            timesteps,
            encoder_hidden_states=text,
            down_block_additional_residuals=down,
            mid_block_additional_residual=middle,
            return_dict=False,
        )[0]
        loss = F.mse_loss(predicted.float(), noise.float(), reduction="mean")
        losses.append(stepped(loss, controlnet, optimizer))
    return losses


def kept(diffusion: ControlledDiffusion, moments: torch.Tensor, hint: Hint, steps: int) -> list[torch.Tensor]:
    """As many of ours, from what a cache keeps; their losses."""
    optimizer = torch.optim.AdamW(diffusion.controlnet.parameters(), lr=1e-3, weight_decay=1e-2)
    return [
        stepped(diffusion.loss(moments, CAPTIONS, hint(), keys(step)).mean(), diffusion.controlnet, optimizer)
        for step in range(steps)
    ]


def stepped(loss: torch.Tensor, controlnet: ControlNetModel, optimizer: torch.optim.Optimizer) -> torch.Tensor:
    loss.backward()
    torch.nn.utils.clip_grad_norm_(controlnet.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return loss.detach()
