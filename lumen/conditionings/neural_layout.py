"""The neural layout: a backbone's dense features, reduced by PCA (Wang et al. 2024, section 3)."""

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from lumen.core.errors import BadConfig
from lumen.core.interfaces import Backbone, Batch, Conditioning
from lumen.core.patching import standing
from lumen.core.random import generator
from lumen.core.registry import conditionings
from lumen.core.visualize import colours
from lumen.features.joint_moments import joint
from lumen.features.moments import Moments
from lumen.features.pca import TENSORS, Basis, principal_axes, project, vectors_at

KEPT = (20, 64)  # axes that are projected on where fewer are shown: one pass over the images serves every N up to them


@conditionings.register
class NeuralLayout(Conditioning):
    """Semantics and geometry of the reference image in a few channels; `lumen leakage` tells how much appearance.

    Args:
        components: N of the paper, the channels of the layout.
        vectors: how many feature vectors of training images the axes are fitted on; "all" takes every
            cell of every image.
        per_image: vectors taken from one image at random cells (the paper says 40,000 random vectors of
            the training set and leaves open of how many images).
        scale: coordinates are divided by nothing ("none"), by the root mean variance of the kept axes
            ("global": the order of strength remains), or each by its standard deviation ("component").
        basis: a fitted basis.safetensors to use instead of fitting.
    """

    hint = "latent"  # a backbone's cells are no finer than the latents

    def __init__(
        self,
        components: int = 20,
        vectors: int | Literal["all"] = 40000,
        per_image: int = 10,
        scale: Literal["none", "global", "component"] = "global",
        basis: str | None = None,
        *,
        backbone: Backbone,
    ):
        super().__init__(backbone=backbone)
        if not 1 <= components <= backbone.channels:
            raise BadConfig(
                f"conditioning.components={components} is not possible: the backbone "
                f"'{backbone.identity.get('name')}' has {backbone.channels} channels; choose 1 to {backbone.channels}."
            )
        self.channels, self.vectors, self.per_image, self.scaling = components, vectors, per_image, scale
        self.contract: dict = {}
        kept = min(next((k for k in KEPT if k >= components), components), backbone.channels)
        self.register_buffer("mean", torch.zeros(backbone.channels))
        self.register_buffer("axes", torch.zeros(backbone.channels, kept))
        self.register_buffer("variance", torch.zeros(kept))
        self.register_buffer("scale", torch.ones(kept))  # of what is kept: the root mean variance of its axes
        if basis is not None:
            self.use(Basis.load(Path(basis)), basis)

    @property
    def backbone(self) -> Backbone:
        return self.networks["backbone"]

    @property
    def fitted(self) -> bool:
        return bool(self.axes.any())

    @property
    def num_fit_images(self) -> int | None:
        """How many training images `fit` would like to see; None is all of them."""
        return None if self.vectors == "all" else -(-self.vectors // self.per_image)

    def forward(self, batch: Batch) -> Float[Tensor, "b k h w"]:
        return self.to_layout(self.encode(batch))

    @torch.no_grad()
    def encode(self, batch: Batch) -> Float[Tensor, "b n h w"]:
        """Coordinates along all axes that there are, divided by one number for all: the same for every N and scale."""
        # In fp32 whatever the precision of training: 8 bits of mantissa move a layout by one per cent, and
        # it would not be the layout that the basis was fitted for.
        with torch.autocast(batch.image.device.type, enabled=False), self._folded() as (mean, axes):
            return project(self.backbone.feature_maps(batch.image), mean, axes, self.scale)

    def to_layout(self, kept: Float[Tensor, "b n h w"]) -> Float[Tensor, "b k h w"]:
        """The first N of them, in the scale asked for."""
        variance = self.variance.double()
        shown = variance[: self.channels]
        divisor = {"none": torch.ones_like(shown), "global": shown.mean().sqrt(), "component": shown.sqrt()}
        # exactly 1 where the N components are all and in their own scale; a dead direction has no scale
        factor = variance.mean().sqrt() / divisor[self.scaling].clamp(min=1e-12)
        return kept[:, : self.channels] * factor.expand_as(shown).to(kept)[:, None, None]

    def cache_key(self, arguments: dict) -> dict:
        """Backbone and axes alone: N and scale come after."""
        axes = hashlib.sha256(b"".join(t.cpu().numpy().tobytes() for t in (self.mean, self.axes, self.scale)))
        return {"backbone": dict(self.backbone.identity), "axes": axes.hexdigest()[:16]}

    @property
    def statistics_key(self) -> dict[str, Any]:
        return {"backbone": dict(self.backbone.identity), "vectors": self.vectors, "per_image": self.per_image}

    @torch.no_grad()
    def compute_statistics(self, batches: Iterable[Batch], images: int, seed: int) -> Float[Tensor, " n"]:
        """The moments of features at random cells of `images` training images, of which this rank sees its share."""
        each = None if self.vectors == "all" else -(-self.vectors // images)
        moments = Moments(self.backbone.channels, self.mean.device)
        for batch in batches:
            maps = self.backbone.feature_maps(batch.image.to(self.mean.device))
            if each is None or each >= maps[-1][0, 0].numel():
                moments.add(*joint([m.double() for m in maps]))
            else:
                moments.update(vectors_at(maps, _cells(maps[-1].shape[-2:], each, seed, batch.id)))
        moments.reduce()
        return moments.packed()

    def fit_from_statistics(self, gathered: Float[Tensor, " n"], seed: int, fingerprint: str) -> None:
        """The axes of such moments, whatever N."""
        moments = Moments(self.backbone.channels, self.mean.device).unpack(gathered)
        self.use(self._basis(moments, seed, fingerprint), "this basis")

    def use(self, basis: Basis, origin: str) -> None:
        """Takes over a fitted basis after checking that it belongs to this backbone and this N."""
        basis.check(self.backbone.identity, origin)
        if (have := basis.axes.shape[1]) < self.channels:
            raise BadConfig(
                f"{origin} has {have} components, the config asks for {self.channels}; set "
                f"conditioning.components={have} or fewer, or fit anew without conditioning.basis."
            )
        for name in TENSORS:
            # row by row in memory, however it came: the order decides how a product rounds
            setattr(self, name, getattr(basis, name).to(self.mean.device).contiguous())
        self.contract = basis.contract

    def basis(self) -> Basis:
        """All that is known, as it goes to a file: it serves every N up to its own."""
        return Basis(self.mean, self.axes, self.variance, self.scale, self.contract)

    def visualize(self, layout: Float[Tensor, "b k h w"]) -> Float[Tensor, "b 3 h w"]:
        return colours(layout)

    def summary_metrics(self) -> dict[str, float]:
        share = self.variance[: self.channels].sum() / self.variance.sum()
        explained = float(share) * self.contract["explained"]
        return {"layout/components": self.channels, "layout/explained_variance": explained}

    def get_extra_state(self) -> dict:
        return self.contract  # which has the backbone's identity

    def set_extra_state(self, contract: dict) -> None:
        self.contract = contract
        if contract:
            self.basis().check(self.backbone.identity, "the basis in this checkpoint")

    @contextmanager
    def _folded(self) -> Iterator[tuple[Float[Tensor, " m"], Float[Tensor, "m n"]]]:
        """Mean and axes of the maps as the backbone gives them inside.

        Where a convolution gives the finest map it gives coordinates instead: exact but for rounding, and for layers
        2, 5 and 8 of SD 1.5 as they leave their blocks 29 of 606 GFLOP less.
        """
        if (name := self.backbone.final_conv) is None:
            yield self.mean, self.axes
            return
        conv, scale = self.backbone.get_submodule(name), self.scale.double()
        width = conv.out_channels
        axes = self.axes[-width:].double() / scale
        shape = (conv.in_channels, len(scale), conv.kernel_size, conv.stride, conv.padding)
        folded = nn.utils.skip_init(nn.Conv2d, *shape, device=conv.weight.device, dtype=conv.weight.dtype)
        folded.weight.copy_(torch.einsum("oiyx,on->niyx", conv.weight.double(), axes))
        folded.bias.copy_((conv.bias.double() - self.mean[-width:].double()) @ axes)
        with standing(self.backbone, {name: folded}):
            yield F.pad(self.mean[:-width], (0, len(scale))), torch.cat([self.axes[:-width], self.scale.diag()])

    def _basis(self, moments: Moments, seed: int, fingerprint: str) -> Basis:
        covariance = moments.covariance()
        axes, variance = principal_axes(covariance, self.axes.shape[1])
        contract = {
            "backbone": dict(self.backbone.identity),
            "components": self.axes.shape[1],
            "vectors": moments.count,
            "seed": seed,
            "data": fingerprint,
            "explained": float(variance.sum() / covariance.trace()),
        }
        scale = variance.mean().sqrt().clamp(min=1e-12).expand_as(variance)
        return Basis(*(part.float() for part in (moments.mean, axes, variance, scale)), contract)


def _cells(grid: tuple[int, int], each: int, seed: int, ids: list[str]) -> Int[Tensor, "b n"]:
    """Which cells of the finest map to look at: `each` random ones per image."""
    total = grid[0] * grid[1]
    return torch.stack([torch.randperm(total, generator=generator(seed, "cells", i))[:each] for i in ids])
