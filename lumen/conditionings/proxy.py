"""Proxy mask: clusters of a backbone's dense features, as an exemplar shows where things of its kinds are."""

from collections.abc import Iterable
from typing import Annotated, Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch import distributed as dist

from lumen.core.errors import BasisMismatch
from lumen.core.interfaces import Backbone, Batch, Conditioning
from lumen.core.palette import class_palette
from lumen.core.random import generator
from lumen.core.ranges import Count, Range
from lumen.core.registry import conditionings
from lumen.core.tensor_hashing import fingerprint
from lumen.features.clustering import Clusters


@conditionings.register
class Proxy(Conditioning):
    """Cluster of each cell of a frozen backbone's features, with one channel per cluster.

    k-means finds the clusters once, from features at random cells of training images; the largest cluster is the first
    channel. The features are those of the finest feature map.

    Args:
        clusters: Number of clusters.
        images: Training images that the clusters are fitted to.
        per_image: Cells of each.
        centre: Whether the mean feature of each image is removed before, and with it much of its colours.
        backbone: Frozen network that computes the features.
    """

    hint = "latent"  # the cells of a backbone are no finer than the latents

    def __init__(
        self,
        clusters: Annotated[int, Range(2, 4096)] = 50,
        images: Count = 256,
        per_image: Count = 128,
        centre: bool = False,
        *,
        backbone: Backbone,
    ):
        super().__init__(backbone=backbone)
        self.channels, self.num_fit_images, self.per_image = clusters, images, per_image
        self.clusters = Clusters(clusters, backbone.map_channels[-1], centre)
        self.register_buffer("palette", class_palette(clusters), persistent=False)

    @property
    def fitted(self) -> bool:
        """True once clusters were fitted or loaded."""
        return self.clusters.fitted

    @property
    def statistics_key(self) -> dict[str, Any]:
        """Everything that the features depend on besides images and seed."""
        identity = dict(self.networks["backbone"].identity)
        return {"proxy of": identity, "per_image": self.per_image, "centre": self.clusters.centre}

    @torch.no_grad()
    def compute_statistics(self, batches: Iterable[Batch], num_images: int, seed: int) -> Float[Tensor, "n c"]:
        """Return the features at random cells, in the order of the images' ids, from all ranks."""
        cells: dict[str, Tensor] = {}
        for batch in batches:
            features = self._features(batch.to(self.palette.device))
            if self.clusters.centre:
                features = features - features.mean((2, 3), keepdim=True)
            for image_id, feature in zip(batch.id, features.flatten(2).cpu(), strict=True):
                order = torch.randperm(feature.shape[1], generator=generator(seed, "cells", image_id))
                cells[image_id] = feature[:, order[: self.per_image]].T
        if dist.is_initialized():
            parts: list[dict[str, Tensor]] = [{} for _ in range(dist.get_world_size())]
            dist.all_gather_object(parts, cells)
            cells = {image_id: cell for part in parts for image_id, cell in part.items()}
        return torch.cat([cells[image_id] for image_id in sorted(cells)])

    def fit_from_statistics(self, statistics: Float[Tensor, "n c"], seed: int, fingerprint: str) -> None:
        """Find the clusters."""
        self.clusters.fit_vectors(statistics.to(self.palette.device), seed)

    @torch.no_grad()
    def forward(self, batch: Batch) -> Float[Tensor, "b k h w"]:
        """Return the clusters of each image's cells."""
        return self.to_layout(self.encode(batch))

    @torch.no_grad()
    def encode(self, batch: Batch) -> Float[Tensor, "b 1 h w"]:
        """Return the number of each cell's cluster."""
        features = self._features(batch)
        return self.clusters.assign(features, tuple(features.shape[-2:]))[:, None].float()

    def to_layout(self, code: Float[Tensor, "b 1 h w"]) -> Float[Tensor, "b k h w"]:
        """Return one channel per cluster."""
        return (code == torch.arange(self.channels, device=code.device)[:, None, None]).float()

    def visualize(self, layout: Float[Tensor, "b k h w"]) -> Float[Tensor, "b 3 h w"]:
        """Return a colour for each cluster, RGB in [0, 1]."""
        return torch.einsum("bkhw,kc->bchw", layout, self.palette[:-1])

    def cache_key(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Return backbone and clusters, all that `encode` depends on."""
        return {"backbone": dict(self.networks["backbone"].identity), "clusters": fingerprint(self.clusters)}

    def get_extra_state(self) -> dict[str, Any]:
        """Return the backbone's identity."""
        return dict(self.networks["backbone"].identity)

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Verify the backbone of a checkpoint's clusters.

        Raises:
            BasisMismatch: They were fitted on another backbone.
        """
        if state != dict(self.networks["backbone"].identity):
            raise BasisMismatch(
                f"the clusters in this checkpoint are of {state.get('name')}, not of this one; give the backbone "
                "and weights of the run."
            )

    def _features(self, batch: Batch) -> Float[Tensor, "b c h w"]:
        with torch.autocast(batch.image.device.type, enabled=False):
            return self.networks["backbone"].feature_maps(batch.image)[-1].float()
