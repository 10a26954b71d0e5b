"""Rows at the widths of Stable Diffusion 1.5 and DINOv2-B: training, extraction, sampler and autoencoder at 256 px."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from backbones.dinov2 import dinov2
from backbones.sd import SD
from benchmarks import sampler
from benchmarks.train_step_cached import CAPTIONS, build_generator, build_optimizer, cached_losses, plain_losses
from benchmarks.train_step_layout import extract_layout
from lumen.core.interfaces import Backbone
from lumen.core.resize import resize
from lumen.diffusion.activation_reuse import known_latents
from lumen.diffusion.loading import load
from lumen.diffusion.stable_diffusion import encode_moments
from lumen.features.pca import project
from lumen.generators.controlnet import ControlNet

COMPONENTS = 20
LEARNING_RATE = 1e-5  # train_controlnet.py's README has it
PARAMETER_STRIDE = 997  # of the trained values that are compared

Work = Iterator[Any]  # a generator: preparation up to the first yield, then one result per step


class Setting:
    """Frozen networks in one copy, images, and PCA axes.

    Args:
        small: Tiny networks and images.
    """

    def __init__(self, small: bool = False):
        torch.manual_seed(0)
        self.base = load("none", "tiny" if small else "v1")
        self.pixels = 64 if small else 256
        self.dinov2 = dinov2("tiny" if small else "base", weights="none")
        self.sd = SD(self.base, [2, 5, 8], "entering", 100, "", 42, False)
        random = torch.Generator().manual_seed(2)
        self.image = torch.rand((len(CAPTIONS), 3, self.pixels, self.pixels), generator=random) * 2 - 1
        self.hint = torch.rand(self.image.shape, generator=random)
        self.cells = self.pixels // self.base.downscale
        with torch.no_grad():
            self.moments = encode_moments(self.base.vae, self.image)

    def axes(self, backbone: Backbone) -> Tensor:
        """Return orthonormal axes for the features of a backbone."""
        random = torch.Generator().manual_seed(3)
        return torch.linalg.qr(torch.randn((backbone.channels, COMPONENTS), generator=random))[0]

    def mean(self, backbone: Backbone) -> Tensor:
        """Return the mean of the features."""
        with known_latents(self.base.vae, self.moments):
            return torch.cat([m.mean((0, 2, 3)) for m in backbone.feature_maps(self.image)])

    def layout(self, backbone: Backbone, mean: Tensor, axes: Tensor) -> Tensor:
        """Return our layouts at the size of the latents, from latents that are known."""
        with known_latents(self.base.vae, self.moments):
            layout = project(backbone.feature_maps(self.image), mean, axes, torch.ones(COMPONENTS))
        return resize(layout, (self.cells, self.cells))


# ---- sides: generators that prepare first, and then yield the result of one step after the other


def train_plain(setting: Setting, backbone: str | None = None) -> Work:
    """Train as train_controlnet.py does, with an image as hint, or with layouts that are extracted at every step."""
    hint = online_layout(setting, backbone) if backbone else lambda: setting.hint
    generator = build_generator(setting.base, *((COMPONENTS, "latent") if backbone else (3, "image")))
    optimizer = build_optimizer(generator.controlnet, LEARNING_RATE)
    losses = plain_losses(setting.base, generator.controlnet, optimizer, setting.image, hint)
    yield
    for loss in losses:
        yield [loss, *read_training(optimizer)]


def train_cached(setting: Setting, backbone: str | None = None) -> Work:
    """Train from cached latents, captions and layouts."""
    hint = setting.hint
    if backbone:
        network = getattr(setting, backbone)
        hint = setting.layout(network, setting.mean(network), setting.axes(network))
    generator = build_generator(setting.base, hint.shape[1], "latent" if backbone else "image")
    generator.prompt_cache |= {caption: setting.base.encode_prompts([caption])[0] for caption in CAPTIONS}
    optimizer = build_optimizer(generator.controlnet, LEARNING_RATE)
    losses = cached_losses(generator, optimizer, setting.moments, lambda: hint)
    yield
    for loss in losses:
        yield [loss, *read_training(optimizer)]


def read_training(optimizer: torch.optim.AdamW) -> tuple[Tensor, Tensor]:
    """Return some of the trained parameters, and the running means of their gradients."""
    parameters = optimizer.param_groups[0]["params"]
    means = [optimizer.state[parameter]["exp_avg"] for parameter in parameters]
    return tuple(torch.cat([t.detach().flatten()[::PARAMETER_STRIDE] for t in side]) for side in (parameters, means))


def online_layout(setting: Setting, backbone: str) -> Callable[[], Tensor]:
    """Return the peer's extraction of layouts: features are concatenated first and projected last."""
    network = getattr(setting, backbone)
    mean, axes = setting.mean(network), setting.axes(network)
    if backbone == "sd":
        return lambda: extract_layout(network, setting.image, mean, axes)
    side = round(setting.pixels / network.stride) * network.stride

    @torch.no_grad()
    def extract() -> Tensor:
        image = F.interpolate(setting.image, (side, side), mode="bilinear", antialias=True)
        tokens = network.net.forward_features(network.normalise(image))[:, network.net.num_prefix_tokens :]
        maps = tokens.mT.unflatten(2, (side // network.stride, side // network.stride))
        maps = F.interpolate(maps, (setting.cells, setting.cells), mode="bilinear")
        return torch.einsum("bchw,ck->bkhw", maps - mean[:, None, None], axes)

    return extract


def extract_plain(setting: Setting) -> Work:
    """Extract layouts by hooks on the whole U-Net, from latents that are known."""
    extract = online_layout(setting, "sd")
    yield
    while True:
        with known_latents(setting.base.vae, setting.moments):
            layout = extract()
        yield layout


def extract_ours(setting: Setting) -> Work:
    """Extract layouts by our backbone and projection, from latents that are known."""
    mean, axes = setting.mean(setting.sd), setting.axes(setting.sd)
    yield
    while True:
        yield setting.layout(setting.sd, mean, axes)


def sample(setting: Setting, sampling: Callable[[ControlNet, Tensor, int, float], Tensor]) -> Work:
    """Sample the latents of one image in four steps."""
    torch.manual_seed(5)  # both sides have the same weights
    generator = sampler.build_generator(setting.base)
    layout = torch.rand((1, COMPONENTS, setting.pixels, setting.pixels), generator=torch.Generator().manual_seed(4))
    yield
    while True:
        yield sampling(generator, layout, 4, 1.0)


@torch.no_grad()
def autoencode_plain(setting: Setting) -> Work:
    """Encode images, and decode their latents, as diffusers' pipelines do."""
    vae = setting.base.vae
    yield
    while True:
        distribution = vae.encode(setting.image).latent_dist
        moments = torch.cat([distribution.mean, distribution.logvar], dim=1)
        yield moments, vae.decode(distribution.mean).sample.clamp(-1, 1)


def autoencode_ours(setting: Setting) -> Work:
    """Encode images, and decode their latents one by one."""
    vae = setting.base.vae
    yield
    while True:
        with torch.no_grad():
            moments = encode_moments(vae, setting.image)
        yield moments, setting.base.decode(moments.chunk(2, dim=1)[0] * vae.config.scaling_factor)


# ---- rows


@dataclass(frozen=True)
class Row:
    """A row at real widths.

    Attributes:
        what: Description of the work.
        peer_name: Description of the peer.
        peer, ours: Sides.
        target: Desired speed-up, which is never a condition.
        min_flop_ratio: Least ratio of the peer's operations to ours.
        tolerance: Largest relative difference of the results; 0 means bit by bit.
        bottleneck: Reason why the target is missed.
    """

    what: str
    peer_name: str
    peer: Callable[[Setting], Work]
    ours: Callable[[Setting], Work]
    target: float
    min_flop_ratio: float
    tolerance: float = 1e-4
    bottleneck: str = "by little"


SCRIPT = "train_controlnet.py of diffusers"
FAST_ONES = (
    "the operations that are saved are the fast ones: the autoencoder's convolutions run twice as fast as the U-Net, "
    "the ControlNet and its optimiser"
)
ROWS = {
    "train_cached": Row(
        "Training steps of SD 1.5 on two images of 256 px, with cached latents and captions.",
        f"{SCRIPT}: autoencoder and text encoder at every step",
        train_plain,
        train_cached,
        target=1.45,
        min_flop_ratio=1.5,
        bottleneck=FAST_ONES,
    ),
    "train_dinov2": Row(
        "Training steps as in `train_cached`, also with cached layouts of DINOv2-B.",
        f"{SCRIPT}, and DINOv2-B at every step",
        lambda setting: train_plain(setting, "dinov2"),
        lambda setting: train_cached(setting, "dinov2"),
        target=1.6,
        min_flop_ratio=1.6,
        bottleneck=FAST_ONES,
    ),
    "train_sd": Row(
        "Training steps as in `train_cached`, also with cached layouts of layers 2, 5 and 8 of SD 1.5.",
        f"{SCRIPT}, and the U-Net with hooks at every step",
        lambda setting: train_plain(setting, "sd"),
        lambda setting: train_cached(setting, "sd"),
        target=1.9,
        min_flop_ratio=2,
        bottleneck=FAST_ONES,
    ),
    "extract_sd": Row(
        "Layouts of layers 2, 5 and 8 of SD 1.5 from the latents of two images of 256 px.",
        "the whole U-Net with hooks; maps resized, concatenated, centred and projected",
        extract_plain,
        extract_ours,
        target=1.45,
        min_flop_ratio=1.4,
        bottleneck="the operations that are saved, convolutions of the finest maps, are faster than those before them",
    ),
    "sample": Row(
        "Latents of one image of 256 px in four steps of DPM-Solver++, with guidance and a layout.",
        sampler.PEER,
        lambda setting: sample(setting, sampler.peer),
        lambda setting: sample(setting, sampler.ours),
        target=1.1,
        min_flop_ratio=1.02,
        bottleneck="the encoded layout, and keys and values of the caption, are few of the operations",
    ),
    "autoencode": Row(
        "Two images of 256 px through the encoder and the decoder of SD 1.5.",
        "diffusers' AutoencoderKL",
        autoencode_plain,
        autoencode_ours,
        target=1,
        min_flop_ratio=1,
        bottleneck="both sides run the same operations",
    ),
}
