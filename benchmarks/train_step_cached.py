"""Training steps of a small Stable Diffusion at 128 px, with cached latents and captions instead of encoding them.

The peer is the step of diffusers' train_controlnet.py, written out with the classes that it uses. Both start from the
same weights and use the same noise, so after the last step the ControlNets must be equal bit by bit.
"""

import copy
from collections.abc import Callable, Iterator
from itertools import count, islice
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, ControlNetModel, DDPMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from benchmarks._script import seconds_per_step
from lumen.core.random import keyed_normal, keyed_uniform
from lumen.diffusion.loading import load
from lumen.diffusion.stable_diffusion import StableDiffusion
from lumen.generators.controlnet import ControlNet

PEER = "train_controlnet.py of diffusers: autoencoder and text encoder at every step"
LIBRARIES = ("diffusers", "torch", "transformers")
ROUNDS = 7
TOLERANCE = 0.0
TARGET_SPEEDUP = 1.6
MIN_FLOP_RATIO = 1.95
BOTTLENECK = (
    "half of the operations are saved, but they are the fast ones, the autoencoder's convolutions; a thousand small "
    "calls and the backward pass remain"
)
STEPS = 8  # of one call, so that its preparation hardly counts
CAPTIONS = ["a red ball on the grass", "a house under a night sky"]

Hint = Callable[[], torch.Tensor]


def build_base() -> StableDiffusion:
    """Return a U-Net of 3.3 M, autoencoder and text encoder in the proportions of Stable Diffusion 1.5."""
    torch.manual_seed(0)
    widths = (16, 32, 64, 64)
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
    tokenizer = load("none", "tiny").tokenizer
    text = CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=256, num_hidden_layers=6, num_attention_heads=4
    )
    # diffusers' `attention_head_dim` of a U-Net is the number of heads; these have 16 and 32 channels.
    unet = {"block_out_channels": (32, 64, 64, 64), "cross_attention_dim": 64, "attention_head_dim": 2}
    parts = {
        "vae": AutoencoderKL(block_out_channels=widths, layers_per_block=2, norm_num_groups=16, **blocks),
        "text_encoder": CLIPTextModel(text),
        "unet": UNet2DConditionModel(**unet),
    }
    for part in parts.values():
        part.requires_grad_(False).eval()
    schedule = DDPMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
    return StableDiffusion(**parts, tokenizer=tokenizer, scheduler=schedule, source="benchmark")


def build_generator(base: StableDiffusion, channels: int, hint: str) -> ControlNet:
    """Return a ControlNet in the middle of its training: at the start, zero weights have mostly zero gradients."""
    generator = ControlNet(base=base, channels=channels, hint=hint, cache_text=True)
    random = torch.Generator().manual_seed(1)
    for parameter in generator.controlnet.parameters():
        if not parameter.any():
            parameter.data = torch.randn(parameter.shape, generator=random) * 0.02
    return generator


def inputs(small: bool = False) -> tuple:
    """Return networks, two images and their hints, and the weights that both sides start from."""
    generator, random = build_generator(build_base(), 3, "image"), torch.Generator().manual_seed(2)
    size = 64 if small else 128
    image = torch.rand((2, 3, size, size), generator=random) * 2 - 1
    hint = torch.rand((2, 3, size, size), generator=random)
    moments = generator.encode(image)
    generator.loss(moments, CAPTIONS, hint, step_keys(0))  # encodes the captions
    return generator, copy.deepcopy(generator.controlnet), image, moments, hint, 2 if small else STEPS


def step_keys(step: int) -> list[tuple]:
    """Return the random keys of both images."""
    return [(0, i, step) for i in range(2)]


def peer(generator: ControlNet, controlnet: ControlNetModel, image, moments, hint, steps: int) -> list:
    """Return the trained parameters of train_controlnet.py."""
    controlnet = copy.deepcopy(controlnet)
    train_plain(generator.base, controlnet, image, lambda: hint, steps)
    return list(controlnet.parameters())


def ours(generator: ControlNet, controlnet: ControlNetModel, image, moments, hint, steps: int) -> list:
    """Return the trained parameters of our generator."""
    generator.controlnet.load_state_dict(controlnet.state_dict())
    train_cached(generator, moments, lambda: hint, steps)
    return [parameter.detach().clone() for parameter in generator.controlnet.parameters()]


def script(path: Path, generator: ControlNet, controlnet, image, moments, hint, steps: int) -> float:
    """Return the seconds of as many steps of a user's train_controlnet.py."""
    generator.controlnet.load_state_dict(controlnet.state_dict())
    return steps * seconds_per_step(path, generator, image.shape[-1], len(image))


def train_plain(
    base: StableDiffusion, controlnet: ControlNetModel, image: torch.Tensor, hint: Hint, steps: int
) -> list[torch.Tensor]:
    """Train as train_controlnet.py does. Return the losses."""
    return list(islice(plain_losses(base, controlnet, build_optimizer(controlnet), image, hint), steps))


def train_cached(generator: ControlNet, moments: torch.Tensor, hint: Hint, steps: int) -> list[torch.Tensor]:
    """Train our generator from cached moments. Return the losses."""
    return list(islice(cached_losses(generator, build_optimizer(generator.controlnet), moments, hint), steps))


def build_optimizer(controlnet: ControlNetModel, learning_rate: float = 1e-3) -> torch.optim.AdamW:
    """Return the optimiser of both sides."""
    return torch.optim.AdamW(controlnet.parameters(), lr=learning_rate, weight_decay=1e-2)


def plain_losses(
    base: StableDiffusion,
    controlnet: ControlNetModel,
    optimizer: torch.optim.Optimizer,
    image: torch.Tensor,
    hint: Hint,
) -> Iterator[torch.Tensor]:
    """Make steps as train_controlnet.py does. Yield the loss of each."""
    for step in count():
        keys = step_keys(step)
        distribution = base.vae.encode(image).latent_dist
        shape = distribution.mean.shape[1:]
        posterior, noise = (keyed_normal(shape, [(*k, kind) for k in keys]) for kind in ("posterior", "noise"))
        latents = (distribution.mean + distribution.std * posterior) * base.vae.config.scaling_factor
        timesteps = (keyed_uniform([(*k, "timestep") for k in keys]) * 1000).long()
        noisy = base.scheduler.add_noise(latents, noise, timesteps)
        ids = base.tokenizer(CAPTIONS, padding="max_length", max_length=77, truncation=True, return_tensors="pt")
        text = base.text_encoder(ids.input_ids, return_dict=False)[0]
        down, middle = controlnet(
            noisy, timesteps, encoder_hidden_states=text, controlnet_cond=hint(), return_dict=False
        )
        predicted = base.unet(
            noisy,
            timesteps,
            encoder_hidden_states=text,
            down_block_additional_residuals=down,
            mid_block_additional_residual=middle,
            return_dict=False,
        )[0]
        loss = F.mse_loss(predicted.float(), noise.float(), reduction="mean")
        yield optimize(loss, controlnet, optimizer)


def cached_losses(
    generator: ControlNet, optimizer: torch.optim.Optimizer, moments: torch.Tensor, hint: Hint
) -> Iterator[torch.Tensor]:
    """Make steps of our generator from cached moments. Yield the loss of each."""
    for step in count():
        loss = generator.loss(moments, CAPTIONS, hint(), step_keys(step)).mean()
        yield optimize(loss, generator.controlnet, optimizer)


def optimize(loss: torch.Tensor, controlnet: ControlNetModel, optimizer: torch.optim.Optimizer) -> torch.Tensor:
    """Make one optimiser step. Return the loss."""
    loss.backward()
    torch.nn.utils.clip_grad_norm_(controlnet.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return loss.detach()
