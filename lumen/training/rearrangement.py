"""Networks of the task `rearranger`: they move feature maps to match a target mask, and find that mask."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.func import functional_call

from lumen.core.resize import resize

HEADS = 4  # of the cross-attention
FREQUENCIES = (1, 2, 4, 8)  # of the sines by which a cell knows its place, per image side
PIXELS_PER_CELL = 4  # side of the square of layout values that the mapper sees of a cell
WIDTHS = (32, 64, 96)  # of the mapper's three levels


class MaskEncoder(nn.Module):
    """Embedding of a mask: two convolutions of its clusters, and the place of each cell.

    Args:
        clusters: Number of clusters.
        width: Channels of the embedding.
    """

    def __init__(self, clusters: int, width: int):
        super().__init__()
        self.first = nn.Conv2d(clusters, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        self.place = nn.Conv2d(4 * len(FREQUENCIES), width, 1)

    def forward(self, mask: Float[Tensor, "b k h w"]) -> Float[Tensor, "b c h w"]:
        """Return the embedding of masks with one channel per cluster."""
        return self.second(F.silu(self.first(mask))) + self.place(positions(mask))


class CrossAttentionRearranger(nn.Module):
    """Cross-attention: queries from the target mask, keys from features and their own mask, values from the features.

    Args:
        channels: Channels of the feature maps, which are standardised.
        clusters: Number of clusters of a mask.
        width: Channels inside.
    """

    def __init__(self, channels: int, clusters: int, width: int):
        super().__init__()
        self.encoder = MaskEncoder(clusters, width)
        self.query = nn.Conv2d(width, width, 1)
        self.key = nn.Conv2d(channels + width, width, 1)
        self.value = nn.Conv2d(channels, width, 1)
        self.merge = nn.Conv2d(2 * width, width, 3, padding=1)
        self.middle = nn.Conv2d(width, width, 3, padding=1)
        self.output = nn.Conv2d(width, channels, 3, padding=1)

    def forward(
        self,
        features: Float[Tensor, "b c h w"],
        own: Float[Tensor, "b k h w"],
        target: Float[Tensor, "b k h w"],
    ) -> Float[Tensor, "b c h w"]:
        """Return the features, moved to where the target mask has clusters like theirs."""
        place, embedding = self.encoder(target), self.encoder(own)
        keys = self.key(torch.cat([features, embedding], dim=1))
        moved = F.scaled_dot_product_attention(*map(_heads, (self.query(place), keys, self.value(features))))
        moved = moved.transpose(2, 3).flatten(1, 2).unflatten(2, place.shape[-2:])
        hidden = F.silu(self.merge(torch.cat([moved, place], dim=1)))
        return self.output(F.silu(self.middle(hidden)) + hidden)


class Mapper(nn.Module):
    """U-Net of three levels from a layout to the logits of a proxy mask.

    Args:
        channels: Channels of the layout.
        clusters: Number of clusters of a mask.
    """

    def __init__(self, channels: int, clusters: int):
        super().__init__()
        first, second, third = WIDTHS
        self.entry = nn.Conv2d(channels * PIXELS_PER_CELL**2, first, 1)
        self.down = nn.ModuleList([_block(first, first), _block(first, second), _block(second, third)])
        self.up = nn.ModuleList([_block(third + second, second), _block(second + first, first)])
        self.output = nn.Conv2d(first, clusters, 1)

    def forward(self, layout: Float[Tensor, "b k _ _"], grid: tuple[int, int]) -> Float[Tensor, "b n h w"]:
        """Return the logits of each cell of a grid."""
        fine = resize(layout, (grid[0] * PIXELS_PER_CELL, grid[1] * PIXELS_PER_CELL))
        levels = [self.down[0](self.entry(F.pixel_unshuffle(fine, PIXELS_PER_CELL)))]
        for block in self.down[1:]:
            levels.append(block(F.avg_pool2d(levels[-1], 2, ceil_mode=True)))
        x = levels.pop()
        for block in self.up:
            level = levels.pop()
            x = block(torch.cat([F.interpolate(x, level.shape[-2:], mode="nearest"), level], dim=1))
        return self.output(x)


class MaskReader(nn.Sequential):
    """Head that reads the mask from feature maps, as the clustering does of other features, with a gradient."""

    def __init__(self, channels: int, clusters: int, width: int):
        super().__init__(
            nn.Conv2d(channels, width, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(width, clusters, 1),
        )


class Critic(nn.Sequential):
    """Discriminator of three convolutions, with a score of each cell."""

    def __init__(self, channels: int, width: int):
        super().__init__(
            nn.Conv2d(channels, width, 3, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(width, width, 3, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(width, 1, 3, padding=1),
        )


class Labeller(nn.Sequential):
    """Two layers from dense features to the logits of classes."""

    def __init__(self, channels: int, classes: int, width: int = 128):
        super().__init__(nn.Conv2d(channels, width, 1), nn.ReLU(), nn.Conv2d(width, classes, 1))


def positions(mask: Float[Tensor, "b k h w"]) -> Float[Tensor, "b n h w"]:
    """Return sines and cosines of the place of each cell, in a grid of any size."""
    h, w = mask.shape[-2:]
    rows = (torch.arange(h, device=mask.device) + 0.5) / h
    columns = (torch.arange(w, device=mask.device) + 0.5) / w
    angles = torch.stack([rows[:, None].expand(h, w), columns.expand(h, w)])
    angles = torch.cat([angles * torch.pi * frequency for frequency in FREQUENCIES])
    return torch.cat([angles.sin(), angles.cos()]).to(mask).expand(len(mask), -1, -1, -1)


def one_hot(mask: Int[Tensor, "b h w"], clusters: int) -> Float[Tensor, "b k h w"]:
    """Return a mask with one channel per cluster."""
    return (mask[:, None] == torch.arange(clusters, device=mask.device)[:, None, None]).float()


def cluster_means(
    features: Float[Tensor, "b c h w"], mask: Float[Tensor, "b k h w"]
) -> tuple[Float[Tensor, "b k c"], Float[Tensor, "b k"]]:
    """Return the mean feature of each cluster, always in fp32, and the number of its cells."""
    sizes = mask.sum((2, 3))
    with torch.autocast(features.device.type, enabled=False):
        sums = mask.flatten(2) @ features.float().flatten(2).transpose(1, 2)
    return sums / sizes.clamp(min=1)[..., None], sizes


def apply_frozen(network: nn.Module, x: Tensor) -> Tensor:
    """Return the output of a network whose parameters get no gradient, so that it only scores."""
    return functional_call(network, {name: p.detach() for name, p in network.named_parameters()}, x)


def _heads(x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b n t d"]:
    return x.flatten(2).unflatten(1, (HEADS, -1)).transpose(2, 3)


def _block(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1),
        nn.GroupNorm(8, outputs),
        nn.SiLU(),
        nn.Conv2d(outputs, outputs, 3, padding=1),
        nn.GroupNorm(8, outputs),
        nn.SiLU(),
    )
