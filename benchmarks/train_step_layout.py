"""Training steps as in `train_step_cached`, also with cached layouts of the U-Net's own features.

The peer extracts them as it is commonly written: run the whole U-Net with hooks, resize all features to the finest,
concatenate them, and project them to 20 components.
"""

import torch
import torch.nn.functional as F

from backbones.sd import SD
from benchmarks.train_step_cached import (
    CAPTIONS,
    STEPS,
    build_base,
    build_generator,
    step_keys,
    train_cached,
    train_plain,
)
from lumen.features.pca import project
from lumen.generators.controlnet import ControlNet

PEER = "train_controlnet.py of diffusers, and layers 2, 5, 8 of the U-Net by hooks"
LIBRARIES = ("diffusers", "torch", "transformers")
ROUNDS = 7
TOLERANCE = 1e-4  # of losses: rounding differs between projection before and after resizing
TARGET_SPEEDUP = 2.0
MIN_FLOP_RATIO = 2.3
BOTTLENECK = (
    "two thirds of the operations are saved, but they are the fast ones, convolutions at the size of the image; a "
    "thousand small calls and the backward pass remain"
)


def inputs(small: bool = False) -> tuple:
    """Return networks, images, their moments and layouts, and a PCA basis."""
    generator = build_generator(build_base(), 20, "latent")
    backbone = SD(generator.base, [2, 5, 8], "entering", 100, "", 42, False)
    size, random = 64 if small else 128, torch.Generator().manual_seed(2)
    image = torch.rand((2, 3, size, size), generator=random) * 2 - 1
    axes = torch.linalg.qr(torch.randn((backbone.channels, 20), generator=random))[0]
    mean = backbone.features(image).mean((0, 2, 3))
    layout = project(backbone.feature_maps(image), mean, axes, torch.ones(20))
    moments = generator.encode(image)
    generator.loss(moments, CAPTIONS, layout, step_keys(0))  # encodes the captions
    start = {name: tensor.clone() for name, tensor in generator.controlnet.state_dict().items()}
    return generator, start, image, moments, layout, backbone, mean, axes, 2 if small else STEPS


def peer(generator: ControlNet, start: dict, image, moments, layout, backbone: SD, mean, axes, steps) -> list:
    """Return the losses with layouts that are extracted at every step."""
    generator.controlnet.load_state_dict(start)
    hint = lambda: extract_layout(backbone, image, mean, axes)  # noqa: E731
    return train_plain(generator.base, generator.controlnet, image, hint, steps)


def ours(generator: ControlNet, start: dict, image, moments, layout, backbone: SD, mean, axes, steps) -> list:
    """Return the losses with cached layouts."""
    generator.controlnet.load_state_dict(start)
    return train_cached(generator, moments, lambda: layout, steps)


@torch.no_grad()
def extract_layout(backbone: SD, image: torch.Tensor, mean: torch.Tensor, axes: torch.Tensor) -> torch.Tensor:
    """Return the layout at the latents' size: features are concatenated first and projected last."""
    vae, unet = backbone.vae, backbone.unet
    z = vae.encode(image).latent_dist.mean * vae.config.scaling_factor
    t = torch.full((len(z),), backbone.timestep, device=z.device)
    maps: list[torch.Tensor] = []
    hooks = [
        unet.get_submodule(tap).register_forward_hook(
            lambda _, __, output: maps.append(output[0] if isinstance(output, tuple) else output)
        )
        for tap in backbone.tap_names
    ]
    unet(backbone.scheduler.add_noise(z, backbone.fixed_noise(z), t), t, backbone.text.expand(len(z), -1, -1))
    for hook in hooks:
        hook.remove()
    size = maps[-1].shape[-2:]
    features = torch.cat([F.interpolate(m, size=size, mode="bilinear") for m in maps], dim=1)
    layout = torch.einsum("bchw,ck->bkhw", features - mean[:, None, None], axes)
    return F.interpolate(layout, size=z.shape[-2:], mode="bilinear")
