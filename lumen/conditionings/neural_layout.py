"""The neural layout: a backbone's dense features, reduced by PCA (Wang et al. 2024, section 3)."""

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lumen.contracts import Backbone, Batch, Conditioning
from lumen.errors import BadConfig
from lumen.moments import Moments
from lumen.native import joint
from lumen.order import generator
from lumen.pca import Basis, axes_of, project, vectors_at
from lumen.pictures import colours
from lumen.registry import conditionings


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
        self.register_buffer("mean", torch.zeros(backbone.channels))
        self.register_buffer("axes", torch.zeros(backbone.channels, components))
        self.register_buffer("variance", torch.zeros(components))
        self.register_buffer("scale", torch.ones(components))
        if basis is not None:
            self.use(Basis.load(Path(basis)), basis)

    @property
    def backbone(self) -> Backbone:
        return self.networks["backbone"]

    @property
    def fitted(self) -> bool:
        return bool(self.axes.any())

    @property
    def wants(self) -> int | None:
        """How many training images `fit` would like to see; None is all of them."""
        return None if self.vectors == "all" else -(-self.vectors // self.per_image)

    @torch.no_grad()
    def forward(self, batch: Batch) -> Float[Tensor, "b k h w"]:
        # In fp32 whatever the precision of training: 8 bits of mantissa move a layout by one per cent, and
        # it would not be the layout that the basis was fitted for.
        with torch.autocast(batch.image.device.type, enabled=False):
            return project(self.backbone.maps(batch.image), self.mean, self.axes, self.scale)

    @torch.no_grad()
    def fit(self, batches: Iterable[Batch], images: int, seed: int, fingerprint: str) -> None:
        """Fits the axes on random cells of `images` training images, of which this rank sees its share."""
        each = None if self.vectors == "all" else -(-self.vectors // images)
        moments = Moments(self.backbone.channels, self.mean.device)
        for batch in batches:
            maps = self.backbone.maps(batch.image.to(self.mean.device))
            if each is None or each >= maps[-1][0, 0].numel():
                moments.add(*joint(maps))
            else:
                moments.update(vectors_at(maps, _cells(maps[-1].shape[-2:], each, seed, batch.id)))
        moments.reduce()
        self.use(self._basis(moments, seed, fingerprint), "this basis")

    def use(self, basis: Basis, origin: str) -> None:
        """Takes over a fitted basis after checking that it belongs to this backbone and this N."""
        basis.check(self.backbone.identity, origin)
        if basis.axes.shape != self.axes.shape:
            have, want = tuple(basis.axes.shape), tuple(self.axes.shape)
            raise BadConfig(
                f"{origin} has {have[1]} components of {have[0]} channels, the config asks for {want[1]} of "
                f"{want[0]}; set conditioning.components={have[1]}, or fit anew without conditioning.basis."
            )
        for name in ("mean", "axes", "variance", "scale"):
            getattr(self, name).copy_(getattr(basis, name))
        self.contract = basis.contract

    def basis(self) -> Basis:
        """What is in use, as it goes to a file."""
        return Basis(self.mean, self.axes, self.variance, self.scale, self.contract)

    def shown(self, layout: Float[Tensor, "b k h w"]) -> Float[Tensor, "b 3 h w"]:
        return colours(layout)

    def record(self) -> dict[str, float]:
        return {"layout/components": self.channels, "layout/explained_variance": self.contract["explained"]}

    def get_extra_state(self) -> dict:
        return self.contract  # which has the backbone's identity

    def set_extra_state(self, contract: dict) -> None:
        self.contract = contract
        if contract:
            self.basis().check(self.backbone.identity, "the basis in this checkpoint")

    def _basis(self, moments: Moments, seed: int, fingerprint: str) -> Basis:
        axes, variance = axes_of(moments, self.channels)
        scale = {
            "none": torch.ones_like(variance),
            "global": variance.mean().sqrt().expand_as(variance),
            "component": variance.sqrt(),
        }[self.scaling]
        contract = {
            "backbone": dict(self.backbone.identity),
            "components": self.channels,
            "scaling": self.scaling,
            "vectors": moments.count,
            "seed": seed,
            "data": fingerprint,
            "explained": float(variance.sum() / moments.variance()),
        }
        # A dead direction (variance 0) has no scale to be divided by.
        parts = (moments.mean, axes, variance, scale.clamp(min=1e-12))
        return Basis(*(part.float() for part in parts), contract)


def _cells(grid: tuple[int, int], each: int, seed: int, ids: list[str]) -> Int[Tensor, "b n"]:
    """Which cells of the finest map to look at: `each` random ones per image."""
    total = grid[0] * grid[1]
    return torch.stack([torch.randperm(total, generator=generator(seed, "cells", i))[:each] for i in ids])
