"""OASIS generator (Schönfeld et al. 2021, arXiv:2012.04781): label map and noise of each class to an image."""

import json
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

import torch
from jaxtyping import Float, Int
from safetensors.torch import load_file
from safetensors.torch import save as serialize
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import spectral_norm

from lumen.core.errors import WeightsMissing
from lumen.core.files import write, write_json
from lumen.features.pretrained import SCENES_WEIGHTS, loading_errors, resolve_weights

CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"
PUBLISHED_WIDTHS = (1024, 1024, 1024, 512, 256, 128, 64)  # 64 times 16, 16, 16, 8, 4, 2, 1
EMBEDDING = 32  # channels of a cell's label embedding


@dataclass(frozen=True)
class OasisConfig:
    """Shape of the generator; the defaults are the published ones.

    Attributes:
        classes: Names of the classes of the label map.
        noise: Numbers of the noise of each class.
        widths: Channels in front of the first block and after each block.
        hidden: Channels inside a SPADE.
        patch: Image pixels per side of an output cell. At 1 the outputs are images, else latents.
        channels: Channels of the output.
    """

    classes: tuple[str, ...]
    noise: int = 64
    widths: tuple[int, ...] = PUBLISHED_WIDTHS
    hidden: int = 128
    patch: int = 1
    channels: int = 3

    @property
    def downscale(self) -> int:
        """Image pixels per side of a cell of the first block; an image size must be a multiple of it."""
        return self.patch * 2 ** (len(self.widths) - 2)


class Spade(nn.Module):
    """Batch normalisation whose scale and shift follow from a map (Park et al. 2019, arXiv:1903.07291)."""

    def __init__(self, channels: int, guide_channels: int, hidden: int):
        super().__init__()
        self.norm = nn.BatchNorm2d(channels, affine=False)
        self.shared = nn.Conv2d(guide_channels, hidden, 3, padding=1)
        self.affine = nn.Conv2d(hidden, 2 * channels, 3, padding=1)

    def forward(self, x: Float[Tensor, "b c h w"], guide: Float[Tensor, "b g _ _"]) -> Float[Tensor, "b c h w"]:
        guide = F.interpolate(guide, x.shape[-2:], mode="nearest")
        gamma, beta = self.affine(F.relu(self.shared(guide))).chunk(2, 1)
        return self.norm(x) * (1 + gamma) + beta


class SpadeBlock(nn.Module):
    """Residual block of two convolutions, each after a SPADE; the shortcut has both where the width changes."""

    def __init__(self, channels: int, outputs: int, guide_channels: int, hidden: int):
        super().__init__()
        middle = min(channels, outputs)
        self.spades = nn.ModuleList(Spade(width, guide_channels, hidden) for width in (channels, middle))
        self.convs = nn.ModuleList(
            spectral_norm(nn.Conv2d(*widths, 3, padding=1)) for widths in ((channels, middle), (middle, outputs))
        )
        self.resizes = channels != outputs
        if self.resizes:
            self.shortcut_spade = Spade(channels, guide_channels, hidden)
            self.shortcut = spectral_norm(nn.Conv2d(channels, outputs, 1, bias=False))

    def forward(self, x: Float[Tensor, "b c h w"], guide: Float[Tensor, "b g _ _"]) -> Float[Tensor, "b d h w"]:
        shortcut = self.shortcut(self.shortcut_spade(x, guide)) if self.resizes else x
        for spade, conv in zip(self.spades, self.convs, strict=True):
            x = conv(F.leaky_relu(spade(x, guide), 0.2))
        return shortcut + x


class OasisGenerator(nn.Module):
    """Generator of images or latents from a label map and the noise of each class.

    The published noise is the same at every pixel. Here each class has its own, so that a class can be changed alone.
    """

    def __init__(self, config: OasisConfig):
        super().__init__()
        self.config = config
        classes, labels = len(config.classes), len(config.classes)
        if config.patch > 1:
            self.embedding = nn.Conv2d(classes * config.patch**2, EMBEDDING, 1)
            labels += EMBEDDING
        guide = config.noise + labels
        self.first = nn.Conv2d(guide, config.widths[0], 3, padding=1)
        self.blocks = nn.ModuleList(SpadeBlock(*pair, guide, config.hidden) for pair in pairwise(config.widths))
        self.last = nn.Conv2d(config.widths[-1], config.channels, 3, padding=1)
        self.register_buffer("mean", torch.zeros(config.channels, 1, 1))
        self.register_buffer("deviation", torch.ones(config.channels, 1, 1))

    def shares(self, labels: Int[Tensor, "b H W"], size: tuple[int, int]) -> Float[Tensor, "b c h w"]:
        """Return the share of each class in each cell of a grid; pixels without a class count for none."""
        return class_shares(labels, len(self.config.classes), size)

    def guide(self, labels: Int[Tensor, "b H W"], z: Float[Tensor, "b c n"]) -> Float[Tensor, "b g h w"]:
        """Return the map that steers every SPADE: the noise of each cell, and its labels.

        A cell of several classes has their noises mixed by their shares, with the variance of one.
        """
        patch, size = self.config.patch, tuple(side // self.config.patch for side in labels.shape[-2:])
        planes = class_planes(labels, len(self.config.classes)).to(z.dtype)
        shares = planes if patch == 1 else F.avg_pool2d(planes, patch)
        weights = shares / shares.norm(dim=1, keepdim=True).clamp(min=1e-6)
        noise = torch.einsum("bchw,bcn->bnhw", weights, z)
        parts = [noise, shares] if patch == 1 else [noise, shares, self.embedding(F.pixel_unshuffle(planes, patch))]
        return torch.cat(parts, 1).view(len(z), -1, *size)

    def block_outputs(self, guide: Float[Tensor, "b g h w"]) -> list[Tensor]:
        """Return the output of each block, the coarsest first."""
        factor = 2 ** (len(self.blocks) - 1)
        size = [side // factor for side in guide.shape[-2:]]
        x = self.first(F.interpolate(guide, size, mode="nearest"))
        outputs = []
        for i, block in enumerate(self.blocks):
            x = block(F.interpolate(x, scale_factor=2.0, mode="nearest") if i else x, guide)
            outputs.append(x)
        return outputs

    def forward(self, labels: Int[Tensor, "b H W"], z: Float[Tensor, "b c n"]) -> Float[Tensor, "b o h w"]:
        """Return outputs whose channels are normalised: images in [-1, 1], or latents of mean 0 and deviation 1."""
        x = self.last(F.leaky_relu(self.block_outputs(self.guide(labels, z))[-1], 0.2))
        return x.tanh() if self.config.patch == 1 else x

    def generate(self, labels: Int[Tensor, "b H W"], z: Float[Tensor, "b c n"]) -> Float[Tensor, "b o h w"]:
        """Return images, or the latents that an autoencoder decodes."""
        return self(labels, z) * self.deviation + self.mean

    def fold(self) -> "OasisGenerator":
        """Replace spectrally normalised weights by plain ones, so that two saves are equal. Return self."""
        for module in self.modules():
            if parametrize.is_parametrized(module):
                parametrize.remove_parametrizations(module, "weight")
        return self


def class_planes(labels: Int[Tensor, "b H W"], classes: int) -> Float[Tensor, "b c H W"]:
    """Return the label map as one plane of zeros and ones per class; pixels without a class are in none."""
    return (labels[:, None] == torch.arange(classes, device=labels.device)[:, None, None]).float()


def class_shares(labels: Int[Tensor, "b H W"], classes: int, size: tuple[int, int]) -> Float[Tensor, "b c h w"]:
    """Return the share of each class in each cell of a grid of a size."""
    return F.adaptive_avg_pool2d(class_planes(labels, classes), size)


def save_oasis(directory: Path, generator: OasisGenerator) -> None:
    """Write a folded generator to a folder, in half precision."""
    weights = {
        name: x.half().contiguous() if x.is_floating_point() else x for name, x in generator.state_dict().items()
    }
    write(directory / WEIGHTS_FILE, serialize(weights))
    write_json(directory / CONFIG_FILE, asdict(generator.config))


def load_oasis(weights: str, config: OasisConfig | None = None) -> OasisGenerator:
    """Return a frozen generator, as `resolve_weights` finds it.

    Args:
        weights: "scenes", a folder that the recipe wrote, or "none".
        config: Shape of the untrained generator of "none"; a folder holds its own.

    Raises:
        WeightsMissing: The weights do not exist, or belong to another network.
    """
    if weights == "scenes" and not (SCENES_WEIGHTS / "oasis").is_dir():
        raise WeightsMissing(
            "the weights of scenes' oasis are not part of this installation; train them by `python -m "
            "lumen.scenes.recipes oasis`, or give the folder of others as weights=FOLDER."
        )
    path = resolve_weights(weights, "oasis", None, None, [CONFIG_FILE, WEIGHTS_FILE])
    with loading_errors(path, "oasis", f"{CONFIG_FILE} and {WEIGHTS_FILE} of the recipe oasis"):
        if path is not None:
            values = json.loads((path / CONFIG_FILE).read_text(encoding="utf-8"))
            lists = {name: tuple(value) for name, value in values.items() if isinstance(value, list)}
            config = OasisConfig(**values | lists)
        generator = OasisGenerator(config).fold()
        if path is not None and generator.mean.device.type != "meta":
            state = load_file(path / WEIGHTS_FILE)
            generator.load_state_dict({name: x.float() if x.is_floating_point() else x for name, x in state.items()})
    return generator.requires_grad_(False).eval()
