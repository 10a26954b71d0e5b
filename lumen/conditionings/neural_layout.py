"""Neural layout (Wang et al. 2024): principal components of a backbone's dense features, free of labels."""

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from lumen.core.errors import BadConfig, BasisMismatch
from lumen.core.interfaces import Backbone, Batch, Conditioning
from lumen.core.interfaces.script import WeightsExpression
from lumen.core.patching import replace_submodules
from lumen.core.random import generator
from lumen.core.ranges import Count, Range
from lumen.core.registry import conditionings
from lumen.core.visualize import layout_to_rgb
from lumen.features.joint_moments import joint_moments
from lumen.features.layout_script import compose_layout_script
from lumen.features.moments import Moments
from lumen.features.pca import BASIS_TENSORS, Basis, gather_vectors, principal_axes, project

# N is rounded up to one of these numbers of axes, all of which are cached: another N needs no new pass over the images.
STORED_AXES = (20, 64)


@conditionings.register
class NeuralLayout(Conditioning):
    """N strongest principal components of the dense features of a frozen backbone.

    The layout of an image x has one cell per cell of the backbone's finest feature map, and N channels:

        layout(x) = Aᵀ (f(x) - m) / s

        f(x)  feature of a cell: all feature maps, resized to the finest and concatenated to c channels
        m     mean of the feature over training images
        A     c × N, orthonormal columns: the N directions in which the feature varies most, strongest first
        s     scale of each channel: 1, one number for all, or its standard deviation (see `scale`)

    PCA estimates m and A once, from `vectors` features at random cells of training images. They belong to one
    backbone. The layout describes semantics and geometry of the image in few channels; `lumen leakage` measures how
    much of the appearance it holds as well.

    `encode` projects onto 20 axes, or 64 if N is larger, and divides by one number. `to_layout` selects the first N
    and applies `scale`. So one fit and one cache entry serve every N up to 20 and every `scale`.

    Args:
        components: N, the channels k of the layout.
        vectors: Feature vectors that the axes are fitted on; "all" takes every cell of every training image. The paper
            takes 40,000 random vectors of the training set.
        per_image: Feature vectors from one image. The paper does not say from how many images its vectors come.
        scale: "none": s is 1. "global": s is the root of the mean variance of the N components, so stronger components
            keep larger values. "component": each component is divided by its own standard deviation.
        basis: Path of a fitted basis.safetensors to use instead of fitting.
        backbone: Frozen network that computes the features.

    Attributes:
        metadata: Origin of the basis, as `Basis.metadata`; empty before the fit.

    Source: Wang et al. 2024, arXiv:2407.01790, section 3.
    """

    hint = "latent"  # the cells of a backbone are no finer than the latents

    def __init__(
        self,
        components: Annotated[int, Range(1, 65_536)] = 20,
        vectors: Annotated[int, Range(2, 1_000_000_000)] | Literal["all"] = 40000,
        per_image: Count = 10,
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
        self.metadata: dict[str, Any] = {}
        num_axes = min(next((n for n in STORED_AXES if n >= components), components), backbone.channels)
        self.register_buffer("mean", torch.zeros(backbone.channels))
        self.register_buffer("axes", torch.zeros(backbone.channels, num_axes))
        self.register_buffer("variance", torch.zeros(num_axes))
        # Root of the mean variance of all stored axes, the same for each: the divisor of `encode`.
        self.register_buffer("scale", torch.ones(num_axes))
        if basis is not None:
            self.set_basis(Basis.load(basis), basis)

    @property
    def backbone(self) -> Backbone:
        """Frozen network that computes the features."""
        return self.networks["backbone"]

    # ---- layout

    def forward(self, batch: Batch) -> Float[Tensor, "b k h w"]:
        """Return the layout of each image, at the resolution of the backbone's finest feature map."""
        return self.to_layout(self.encode(batch))

    @torch.no_grad()
    def encode(self, batch: Batch) -> Float[Tensor, "b n h w"]:
        """Return the coordinates of the features along all stored axes, divided by the root of their mean variance.

        The result depends on neither N nor `scale`.
        """
        # Always in fp32: with the 8 bits of a bf16 mantissa the layout would move by 1 %, away from the fitted basis.
        with torch.autocast(batch.image.device.type, enabled=False), self._fused_projection() as (mean, axes):
            return project(self.backbone.feature_maps(batch.image), mean, axes, self.scale)

    def to_layout(self, code: Float[Tensor, "b n h w"]) -> Float[Tensor, "b k h w"]:
        """Return the first N coordinates, divided by `scale`."""
        variance = self.variance.double()
        selected = variance[: self.channels]
        divisor = {"none": torch.ones_like(selected), "global": selected.mean().sqrt(), "component": selected.sqrt()}
        # With all stored axes and the global scale the factor is exactly 1. A direction without variance has no scale.
        factor = variance.mean().sqrt() / divisor[self.scaling].clamp(min=1e-12)
        return code[:, : self.channels] * factor.expand_as(selected).to(code)[:, None, None]

    def visualize(self, layout: Float[Tensor, "b k h w"]) -> Float[Tensor, "b 3 h w"]:
        """Return the first three components as RGB in [0, 1]."""
        return layout_to_rgb(layout)

    @property
    def legend(self) -> str:
        """Words that explain the picture of a layout."""
        if self.channels == 1:
            return "layout: its only component in grey, each image on its own scale"
        count = min(3, self.channels)
        return f"layout: components 1-{count} of {self.channels} as colours, each image on its own scale"

    def cache_key(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Return backbone and axes, all that `encode` depends on; N and `scale` are applied later."""
        axes = hashlib.sha256(b"".join(t.cpu().numpy().tobytes() for t in (self.mean, self.axes, self.scale)))
        return {"backbone": dict(self.backbone.identity), "axes": axes.hexdigest()[:16]}

    # ---- fit

    @property
    def fitted(self) -> bool:
        """True once a basis was fitted or loaded."""
        return bool(self.axes.any())

    @property
    def num_fit_images(self) -> int | None:
        """Training images from which the vectors are taken; None means all."""
        return None if self.vectors == "all" else -(-self.vectors // self.per_image)

    @property
    def statistics_key(self) -> dict[str, Any]:
        """Everything that the moments depend on besides images and seed."""
        return {"backbone": dict(self.backbone.identity), "vectors": self.vectors, "per_image": self.per_image}

    @torch.no_grad()
    def compute_statistics(self, batches: Iterable[Batch], num_images: int, seed: int) -> Float[Tensor, " n"]:
        """Return the packed `Moments` of the features at random cells of the images, merged over all ranks."""
        cells_per_image = None if self.vectors == "all" else -(-self.vectors // num_images)
        moments = Moments(self.backbone.channels, self.mean.device)
        for batch in batches:
            maps = self.backbone.feature_maps(batch.image.to(self.mean.device))
            if cells_per_image is None or cells_per_image >= maps[-1][0, 0].numel():
                moments.merge(*joint_moments([m.double() for m in maps]))
            else:
                cells = _random_cells(maps[-1].shape[-2:], cells_per_image, seed, batch.id)
                moments.update(gather_vectors(maps, cells))
        moments.all_reduce()
        return moments.pack()

    def fit_from_statistics(self, statistics: Float[Tensor, " n"], seed: int, fingerprint: str) -> None:
        """Compute mean and principal axes from packed `Moments`."""
        moments = Moments(self.backbone.channels, self.mean.device).merge_packed(statistics)
        self.set_basis(self._fit_basis(moments, seed, fingerprint), "this basis")

    def _fit_basis(self, moments: Moments, seed: int, fingerprint: str) -> Basis:
        covariance = moments.covariance()
        axes, variance = principal_axes(covariance, self.axes.shape[1])
        metadata = {
            "backbone": dict(self.backbone.identity),
            "components": self.axes.shape[1],
            "vectors": moments.count,
            "seed": seed,
            "data": fingerprint,
            "explained": float(variance.sum() / covariance.trace()),
        }
        scale = variance.mean().sqrt().clamp(min=1e-12).expand_as(variance)
        return Basis(*(tensor.float() for tensor in (moments.mean, axes, variance, scale)), metadata)

    def summary_metrics(self) -> dict[str, float]:
        """Return N, and the share of the total variance of the features that the layout explains."""
        share = self.variance[: self.channels].sum() / self.variance.sum()
        explained = float(share) * self.metadata["explained"]
        return {"layout/components": self.channels, "layout/explained_variance": explained}

    @property
    def explained(self) -> list[float]:
        """Share of each stored axis in the variance of all stored axes; the first N are those of the layout."""
        return (self.variance / self.variance.sum()).tolist()

    # ---- basis

    @property
    def basis(self) -> Basis:
        """Fitted basis with all stored axes."""
        return Basis(self.mean, self.axes, self.variance, self.scale, self.metadata)

    def set_basis(self, basis: Basis, origin: str) -> None:
        """Use a fitted basis.

        Args:
            origin: Subject of the error message, such as the path of the basis.

        Raises:
            BasisMismatch: The basis was fitted on another backbone.
            BadConfig: The basis has fewer than N axes.
        """
        basis.verify(self.backbone.identity, origin)
        if len(basis.axes) != self.backbone.channels:
            raise BasisMismatch(
                f"{origin} has {len(basis.axes)} channels, and its backbone {self.backbone.channels}; fit it again."
            )
        if (num_axes := basis.axes.shape[1]) < self.channels:
            raise BadConfig(
                f"{origin} has {num_axes} components, but the config asks for {self.channels}; set "
                f"conditioning.components={num_axes} or fewer, or fit a basis by leaving out conditioning.basis."
            )
        for name in BASIS_TENSORS:
            # Row-major in memory, whatever the origin: the memory order decides how a product is rounded.
            setattr(self, name, getattr(basis, name).to(self.mean.device).contiguous())
        self.metadata = basis.metadata

    def save(self, directory: Path) -> None:
        """Write the basis to basis.safetensors."""
        self.basis.save(directory / "basis.safetensors")

    def script(self, size: int, latents: int | None, locate: WeightsExpression) -> str | None:
        """Return a program that computes the layout with the backbone's library alone, if the backbone has one."""
        script = self.backbone.script(size, locate)
        return script and compose_layout_script(script, self.channels, self.scaling, size, latents)

    def get_extra_state(self) -> dict[str, Any]:
        """Return the metadata of the basis, which hold the backbone's identity."""
        return self.metadata

    def set_extra_state(self, metadata: dict[str, Any]) -> None:
        """Take over the metadata of a checkpoint's basis.

        Raises:
            BasisMismatch: The basis was fitted on another backbone.
        """
        self.metadata = metadata
        if metadata:
            self.basis.verify(self.backbone.identity, "the basis in this checkpoint")

    # ---- projection inside the backbone

    @contextmanager
    def _fused_projection(self) -> Iterator[tuple[Float[Tensor, " m"], Float[Tensor, "m n"]]]:
        """Fuse the projection of the finest map into the convolution that yields the map; yield mean and axes.

        With weight W and bias b, the convolution followed by the projection is again a convolution,

            Aᵀ (W * x + b - m) / s  =  (Aᵀ W / s) * x + Aᵀ (b - m) / s

        Inside the context it replaces the backbone's, whose finest map then holds coordinates. The mean and axes for
        `project` take this into account. The result is equal up to rounding. For layers 2, 5 and 8 of SD 1.5 with
        reading=block, this saves 29 of 606 GFLOP. Without such a convolution the mean and axes are those of the basis.
        """
        if (name := self.backbone.final_conv) is None:
            yield self.mean, self.axes
            return
        conv, scale = self.backbone.get_submodule(name), self.scale.double()
        channels = conv.out_channels
        axes = self.axes[-channels:].double() / scale
        shape = (conv.in_channels, len(scale), conv.kernel_size, conv.stride, conv.padding)
        fused = nn.utils.skip_init(nn.Conv2d, *shape, device=conv.weight.device, dtype=conv.weight.dtype)
        fused.weight.copy_(torch.einsum("oiyx,on->niyx", conv.weight.double(), axes))
        fused.bias.copy_((conv.bias.double() - self.mean[-channels:].double()) @ axes)
        with replace_submodules(self.backbone, {name: fused}):
            yield F.pad(self.mean[:-channels], (0, len(scale))), torch.cat([self.axes[:-channels], self.scale.diag()])


def _random_cells(grid: tuple[int, int], count: int, seed: int, ids: list[str]) -> Int[Tensor, "b n"]:
    """Return flat indices of `count` random cells per image; they depend on the image's id, not on its batch."""
    total = grid[0] * grid[1]
    return torch.stack([torch.randperm(total, generator=generator(seed, "cells", i))[:count] for i in ids])
