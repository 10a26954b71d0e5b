"""Directions in the noise of a generator: losses that they learn by, and directions found without learning."""

import math
from collections.abc import Iterable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from lumen.core.interfaces import Batch
from lumen.core.random import generator, keyed_uniform
from lumen.features.oasis import OasisGenerator, Spade, class_shares

MIN_AREA = 0.02  # least share of an image that a class needs to be edited, if any class has it
MAX_BLOCKS = 5  # whose outputs are compared, from the first; the published generator has six
LOG_OFFSET = 1e-3  # in the area loss
PCA_IMAGES = 2000


def expected_length(n: int) -> float:
    """Return the mean length of n standard normal numbers: 7.97 for the published 64."""
    return math.sqrt(2) * math.exp(math.lgamma((n + 1) / 2) - math.lgamma(n / 2))


def scale_directions(directions: Float[Tensor, "c k n"]) -> Float[Tensor, "c k n"]:
    """Return directions of the mean length of noise."""
    return F.normalize(directions, dim=-1) * expected_length(directions.shape[-1])


def choose_classes(mask: Int[Tensor, "b H W"], classes: int, keys: list[tuple]) -> Int[Tensor, " b"]:
    """Return a class of each image by its key: one of `MIN_AREA` or more, else the largest."""
    area = class_shares(mask, classes, (1, 1))[..., 0, 0]
    is_large = area >= MIN_AREA
    candidates = torch.where(is_large.any(1, keepdim=True), is_large, area == area.amax(1, keepdim=True))
    share = keyed_uniform(keys).double().to(mask.device)  # in float32 its product could reach the count
    rank = (share * candidates.sum(1)).long()
    return ((candidates.cumsum(1) - 1 == rank[:, None]) & candidates).int().argmax(1)


def choose_pairs(count: int, keys: list[tuple]) -> tuple[Int[Tensor, " b"], Int[Tensor, " b"]]:
    """Return two different numbers below `count` for each key."""
    first, step = (keyed_uniform([(*key, name) for key in keys]).double() for name in ("direction", "other"))
    first = (first * count).long()
    return first, (first + 1 + (step * (count - 1)).long()) % count


def shift_noise(
    z: Float[Tensor, "b c n"], chosen: Int[Tensor, " b"], shift: Float[Tensor, "b n"]
) -> Float[Tensor, "b c n"]:
    """Return noise in which that of one class of each image is shifted."""
    is_chosen = F.one_hot(chosen, z.shape[1]).to(z.dtype)
    return z + is_chosen[..., None] * shift[:, None]


def triplet_and_area(
    outputs: list[list[Tensor]], shares: list[Float[Tensor, "b _ _"]]
) -> tuple[Float[Tensor, " b"], Float[Tensor, " b"]]:
    """Return both losses of each image, each the mean over blocks.

    Args:
        outputs: Block outputs of the unedited image, the anchor, the positive (another noise under the same direction)
            and the negative (the same noise under another direction).
        shares: Share of the edited class in each cell, for each block.
    """
    triplets, areas = [], []
    for plain, anchor, positive, negative, share in zip(*outputs, shares, strict=True):
        triplets.append(_mean_gap(anchor, positive, share) - _mean_gap(anchor, negative, share))
        outer, inner = (_mean_gap(plain, anchor, part) for part in (1 - share, share))
        areas.append((outer + LOG_OFFSET).log() - (inner + LOG_OFFSET).log())
    return torch.stack(triplets).mean(0), torch.stack(areas).mean(0)


def _mean_gap(
    a: Float[Tensor, "b c h w"], b: Float[Tensor, "b c h w"], weight: Float[Tensor, "b h w"]
) -> Float[Tensor, " b"]:
    """Return the weighted mean over cells of the squared distance of two outputs."""
    return ((a - b).square().sum(1) * weight).sum((1, 2)) / weight.sum((1, 2)).clamp(min=1e-6)


def random_directions(shape: tuple[int, int, int], seed: int) -> Float[Tensor, "c k n"]:
    """Return standard normal directions."""
    return torch.randn(shape, generator=generator(seed, "directions"), device="cpu")


def sefa_directions(network: OasisGenerator, count: int) -> Float[Tensor, "k n"]:
    """Return the directions to which the first convolutions respond most, the same for every class.

    Noise enters by the first convolution and by that of every SPADE. As it is nearly constant within a class, kernels
    are summed over their positions.

    Source: Shen and Zhou 2021 (arXiv:2007.06600), equation 7.
    """
    layers = [network.first, *(module.shared for module in network.modules() if isinstance(module, Spade))]
    responses = [layer.weight[:, : network.config.noise].double().sum((2, 3)) for layer in layers]
    columns = F.normalize(torch.cat(responses), dim=1)
    axes = torch.linalg.eigh(columns.T @ columns).eigenvectors.flip(1).T[:count]
    return _fix_signs(axes).float()


class PcaStatistics(nn.Module):
    """Sums over training images from which the PCA of a block's output follows, for each class.

    An activation is the mean of a block's output over the cells of a class; its noise is that of the class.
    """

    def __init__(self, network: OasisGenerator, index: int):
        super().__init__()
        self.network, self.index = network, index
        classes, noise = len(network.config.classes), network.config.noise
        self.size = network.config.widths[index + 1] + noise
        self.shape = (classes, 1 + self.size + self.size**2)

    @torch.no_grad()
    def compute(self, batches: Iterable[Batch], seed: int) -> Float[Tensor, "c s"]:
        """Return count, sum and sum of products of activation and noise of each class, in float64."""
        config, total = self.network.config, torch.zeros(self.shape, dtype=torch.float64)
        for batch in batches:
            keys = [(seed, image_id, "pca") for image_id in batch.id]
            z = torch.stack([torch.randn(*self._noise_shape, generator=generator(*key)) for key in keys])
            mask = batch.mask.to(self.network.mean.device)
            output = self.network.block_outputs(self.network.guide(mask, z.to(mask.device)))[self.index]
            shares = class_shares(mask, len(config.classes), tuple(output.shape[-2:]))
            area = shares.sum((2, 3))
            means = torch.einsum("bdhw,bchw->bcd", output, shares) / area.clamp(min=1e-6)[..., None]
            rows = torch.cat([means.cpu(), z], 2).double() * (area > 0).cpu()[..., None]
            products = torch.einsum("bci,bcj->cij", rows, rows).flatten(1)
            total += torch.cat([(area > 0).sum(0).cpu()[:, None], rows.sum(0), products], 1)
        return total

    @property
    def _noise_shape(self) -> tuple[int, int]:
        return len(self.network.config.classes), self.network.config.noise

    def directions(self, statistics: Float[Tensor, "c s"], count: int) -> Float[Tensor, "c k n"]:
        """Return the noise that leads along each principal axis; zeros stand for classes that no image shows.

        The regression of the noise on coordinates of unit variance is their covariance with it.

        Source: Härkönen et al. 2020, GANSpace (arXiv:2004.02546), section 2.2.
        """
        noise = self.network.config.noise
        images, sums, products = statistics.split([1, self.size, self.size**2], dim=1)
        means = sums / images.clamp(min=1)
        covariance = products.unflatten(1, (self.size, -1)) / images.clamp(min=1)[..., None]
        covariance = covariance - means[:, :, None] * means[:, None]
        variances, axes = torch.linalg.eigh(covariance[:, :-noise, :-noise])
        variances, axes = variances.flip(1)[:, :count], axes.flip(2)[..., :count]
        directions = torch.einsum("cak,can->ckn", axes, covariance[:, :-noise, -noise:])
        return _fix_signs(directions / variances.clamp(min=1e-12).sqrt()[..., None]).float()


def _fix_signs(axes: Float[Tensor, "*c k n"]) -> Float[Tensor, "*c k n"]:
    """Return axes whose largest entry is positive, so that they are the same on every machine."""
    largest = axes.gather(-1, axes.abs().argmax(-1, keepdim=True))
    return axes * torch.where(largest < 0, -1, 1)
