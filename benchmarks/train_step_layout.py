"""The same step steered by layouts of the U-Net's own features, kept as well instead of extracted anew.

The peer extracts them as it is commonly written: the whole U-Net with hooks, all features resized to the finest, put
together, and only then projected to 20 components.
"""

import torch
import torch.nn.functional as F

from backbones.sd import SD
from benchmarks.train_step_cached import CAPTIONS, STEPS, begun, kept, keys, plain
from lumen.features.pca import project
from lumen.generators.controlnet import ControlledDiffusion

PEER = "train_controlnet.py of diffusers, and layers 2, 5, 8 of the U-Net by hooks"
LIBRARIES = ("diffusers", "torch", "transformers")
ROUNDS = 7
APART = 1e-4  # of losses: a projection after resizing rounds otherwise than one before
TARGET = 2.0
FLOPS = 2.3
MISSED = (
    "two thirds of the operations are spared, and they are the fast ones: convolutions at the size of the image; what "
    "is left is attention over heads of 4 to 8 channels, and small calls"
)


def inputs(small: bool = False) -> tuple:
    diffusion = begun(20, "latent")
    backbone = SD(diffusion.pipeline, [2, 5, 8], "entering", 100, "", 42, False)
    size, generator = 64 if small else 128, torch.Generator().manual_seed(2)
    image = torch.rand((2, 3, size, size), generator=generator) * 2 - 1
    axes = torch.linalg.qr(torch.randn((backbone.channels, 20), generator=generator))[0]
    mean = backbone.features(image).mean((0, 2, 3))
    layout = project(backbone.feature_maps(image), mean, axes, torch.ones(20))
    moments = diffusion.moments(image)
    diffusion.loss(moments, CAPTIONS, layout, keys(0))  # embeds the captions
    start = {name: tensor.clone() for name, tensor in diffusion.controlnet.state_dict().items()}
    return diffusion, start, image, moments, layout, backbone, mean, axes, 2 if small else STEPS


def peer(diffusion: ControlledDiffusion, start: dict, image, moments, layout, backbone: SD, mean, axes, steps) -> list:
    diffusion.controlnet.load_state_dict(start)
    hint = lambda: extracted(backbone, image, mean, axes)  # noqa: E731
    return plain(diffusion.pipeline, diffusion.controlnet, image, hint, steps)


def ours(diffusion: ControlledDiffusion, start: dict, image, moments, layout, backbone: SD, mean, axes, steps) -> list:
    diffusion.controlnet.load_state_dict(start)
    return kept(diffusion, moments, lambda: layout, steps)


@torch.no_grad()
def extracted(backbone: SD, image: torch.Tensor, mean: torch.Tensor, axes: torch.Tensor) -> torch.Tensor:
    """The layout at the latents' size, features first and their projection last."""
    vae, unet = backbone.vae, backbone.unet
    z = vae.encode(image).latent_dist.mean * vae.config.scaling_factor
    t = torch.full((len(z),), backbone.timestep, device=z.device)
    found: list[torch.Tensor] = []
    hooks = [
        unet.get_submodule(tap).register_forward_hook(
            lambda _, __, output: found.append(output[0] if isinstance(output, tuple) else output)
        )
        for tap in backbone.taps
    ]
    unet(backbone.scheduler.add_noise(z, backbone._noise(z), t), t, backbone.text.expand(len(z), -1, -1))
    for hook in hooks:
        hook.remove()
    size = found[-1].shape[-2:]
    features = torch.cat([F.interpolate(each, size=size, mode="bilinear") for each in found], dim=1)
    layout = torch.einsum("bchw,ck->bkhw", features - mean[:, None, None], axes)
    return F.interpolate(layout, size=z.shape[-2:], mode="bilinear")
