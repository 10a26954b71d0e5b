"""Bank of a frozen generator's samples: latents by seed, proxy masks, and what a mapper learns to map to them."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from lightning.pytorch import LightningDataModule
from torch import Tensor, nn

from lumen.core.errors import BadConfig
from lumen.core.interfaces import Batch, Conditioning, Generator
from lumen.core.random import generator as keyed_generator
from lumen.core.random import stable_seed
from lumen.core.tensor_hashing import fingerprint
from lumen.features.clustering import Clusters
from lumen.training.fit_conditioning import fit_conditioning
from lumen.training.labeller_fit import fit_labeller
from lumen.training.rearrangement import Labeller

RARE = 0.01  # share that each cluster has at least, where masks are chosen for a style
STYLE_BATCH = 16  # samples that are generated at once


class SampleBank(nn.Module):
    """Samples of a frozen generator, one for each training image, which it stands for under its id.

    Args:
        generator: Generator with `latents`, `invert`, `features`, `render` and `dense_features`.
        conditioning: Map from a batch to its layout.
        size: Height and width of an image in pixels.
        num_clusters: Clusters of a proxy mask.
        centre: Whether the mean feature of each image is removed before clustering.
        num_styles: Samples that outputs start from.
        pairs: Labelled training images, for conditionings of label maps.
        num_classes: Classes of the data set.

    Attributes:
        styles: Latents of these samples.
        style_masks: Proxy masks of the styles.
        shares: Share of each cluster in their cells.
        mean: Mean of each channel of the features.
        scale: Standard deviation of each channel.
    """

    def __init__(
        self,
        generator: Generator,
        conditioning: Conditioning,
        size: tuple[int, int],
        num_clusters: int,
        centre: bool,
        num_styles: int,
        pairs: int | Literal["all"],
        num_classes: int,
    ):
        super().__init__()
        self.parts = (generator, conditioning)  # a tuple keeps them out of this module: they belong to the task
        self.size, self.pairs, self.num_classes = size, pairs, num_classes
        self.clusters = Clusters(num_clusters, generator.dense_channels, centre)
        self.labeller = Labeller(generator.dense_channels, num_classes).requires_grad_(False)
        self.register_buffer("styles", torch.zeros(num_styles, *generator.latent_shape(size)))
        self.register_buffer("style_masks", torch.zeros(num_styles, *self.styles.shape[2:], dtype=torch.int32))
        self.register_buffer("shares", torch.zeros(num_clusters))
        self.register_buffer("mean", torch.zeros(generator.feature_channels))
        self.register_buffer("scale", torch.ones(generator.feature_channels))
        self.data_fingerprint = ""

    @property
    def generator(self) -> Generator:
        """Frozen generator."""
        return self.parts[0]

    @property
    def layouts(self) -> Conditioning:
        """Map from a batch to its layout."""
        return self.parts[1]

    # ---- statistics

    def fit(self, data: LightningDataModule, seed: int, cached: Callable[..., Tensor] | None = None) -> None:
        """Fit the conditioning, generate the styles, cluster their features, and fit the head that gives labels.

        Every process does all of it, and comes to the same.
        """
        self.data_fingerprint = data.source.fingerprint()
        if self.clusters.fitted:
            return
        self._verify_pairs(len(data.source.records("train")))
        fit_conditioning(self.layouts, data, seed, cached)
        key = {"styles": self.generator.latents_of_seed, "count": len(self.styles)}
        self.styles.copy_(cached(key, 1, self._generate_styles) if cached else self._generate_styles())
        parts = self.styles.split(STYLE_BATCH)
        features = torch.cat([self.generator.features(z) for z in parts])
        self.mean.copy_(features.mean((0, 2, 3)))
        self.scale.copy_(features.std((0, 2, 3)).clamp(min=1e-6))
        dense = torch.cat([self.generator.dense_features(z) for z in parts])
        self.clusters.fit(dense, seed)
        mask = self.clusters.assign(dense, tuple(self.styles.shape[-2:]))
        self.style_masks.copy_(mask)
        self.shares.copy_(mask.flatten().bincount(minlength=self.clusters.count) / mask.numel())
        if self.uses_labeller:
            fit_labeller(self.labeller, self._labelled_features(data, seed), self.num_classes)

    def _verify_pairs(self, images: int) -> None:
        """Raise BadConfig if there are fewer training images than pairs."""
        if self.uses_labeller and self.pairs > images:
            raise BadConfig(
                f"task.pairs={self.pairs} is not possible: the data set has {images} training images; choose 1 to "
                f"{images}, or all."
            )

    def _generate_styles(self) -> Float[Tensor, "n z h w"]:
        seeds = [stable_seed("style", number) for number in range(len(self.styles))]
        parts = [seeds[start : start + STYLE_BATCH] for start in range(0, len(seeds), STYLE_BATCH)]
        return torch.cat([self.generator.latents(part, self.size) for part in parts])

    def _labelled_features(self, data: LightningDataModule, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield dense features and label maps of so many training images; fewer of them are the first of more."""
        order = torch.randperm(len(data.source.records("train")), generator=keyed_generator(seed, "pairs"))
        views = [(int(image), 0) for image in order[: self.pairs]]
        for batch in data.views_dataloader(views, STYLE_BATCH):
            photos = batch.to(self.styles.device)
            yield self.generator.dense_features(self.generator.invert(photos.image)), photos.mask

    # ---- bank and cache

    @property
    def uses_labels(self) -> bool:
        """True if the layout is made of a label map."""
        return self.layouts.uses_labels

    @property
    def uses_labeller(self) -> bool:
        """True if a head gives labels to the samples of the bank."""
        return self.uses_labels and self.pairs != "all"

    @property
    def output_names(self) -> list[str]:
        """Names of the outputs that a training step reads, each after those that it is computed from."""
        if not self.uses_labels:
            return ["bank", "proxies", "layouts"]
        return ["bank", "proxies", "labels", *([] if self.uses_labeller else ["photo_proxies"])]

    def cache_keys(self, arguments: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        """Return the samples of the bank, their proxy masks, and what the mapper learns from."""
        bank = {"generator": self.generator.latents_of_seed, "ids": self.data_fingerprint}
        proxies = bank | {"clusters": fingerprint(self.clusters), "centre": self.clusters.centre}
        keys = {"bank": bank, "proxies": proxies, "photo_proxies": proxies}
        if self.uses_labels:
            keys["labels"] = bank | {"labeller": fingerprint(self.labeller)} if self.uses_labeller else {}
        else:
            keys["layouts"] = bank | {"conditioning": self.layouts.cache_key(arguments["conditioning"])}
        return {name: keys[name] for name in self.output_names}

    @torch.no_grad()
    def encode(self, name: str, batch: Batch) -> Tensor:
        """Return one cacheable output of a batch: of the sample of the bank that its image stands for, or its own."""
        if name == "bank":
            return self.generator.latents([stable_seed("bank", image_id) for image_id in batch.id], self.size)
        if name == "photo_proxies":
            return self.proxy_mask(self.generator.invert(batch.image)).short()
        if name == "labels" and not self.uses_labeller:
            return batch.mask.short()
        z = batch.cached["bank"].float()
        if name == "proxies":
            return self.proxy_mask(z).short()
        if name == "labels":
            logits = self.labeller(self.generator.dense_features(z))
            return F.interpolate(logits, self.size, mode="bilinear", align_corners=False).argmax(1).short()
        image = self.generator.render(self.generator.features(z))
        return self.layouts.encode(Batch(image, [""] * len(image), batch.id))

    def needs_images(self, cached: Iterable[str]) -> bool:
        """Return whether something is still computed from images."""
        return not {*self.output_names} <= {*cached}

    def complete(self, batch: Batch) -> dict[str, Tensor]:
        """Return all outputs of frozen networks; what no cache holds is computed."""
        batch = replace(batch, cached=dict(batch.cached))
        for name in self.output_names:
            if name not in batch.cached:
                batch.cached[name] = self.encode(name, batch)
        return batch.cached

    def proxy_mask(self, z: Float[Tensor, "b z h w"]) -> Int[Tensor, "b h w"]:
        """Return the proxy mask of latents: the cluster of each cell."""
        return self.clusters.assign(self.generator.dense_features(z), tuple(z.shape[-2:]))

    # ---- features

    def layout_of(self, cached: dict[str, Tensor], ids: list[str]) -> Float[Tensor, "b k _ _"]:
        """Return the layouts that the mapper learns from."""
        if "labels" in cached:
            return self.layouts(Batch(None, [""] * len(ids), ids, cached["labels"].long()))
        return self.layouts.to_layout(cached["layouts"].float())

    def standardize(self, z: Float[Tensor, "b z h w"]) -> Float[Tensor, "b c h w"]:
        """Return the features of latents with mean 0 and deviation 1 in each channel."""
        return (self.generator.features(z.float()) - self.mean[:, None, None]) / self.scale[:, None, None]

    def render(self, features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 3 H W"]:
        """Return standardised features as images in [-1, 1]."""
        return self.generator.render(features.float() * self.scale[:, None, None] + self.mean[:, None, None])

    def target_masks(self, keys: list[tuple]) -> Int[Tensor, "b h w"]:
        """Return the proxy mask of a style for each key; it does not depend on how a step is divided into batches."""
        return self.style_masks[[stable_seed(*key) % len(self.style_masks) for key in keys]].long()

    def log_odds(self, mask: Float[Tensor, "b k h w"]) -> Float[Tensor, "b k"]:
        """Return the logarithm of the share of each cluster in masks, relative to that in all styles."""
        return ((mask.mean((2, 3)) + RARE) / (self.shares + RARE)).log()

    def style_latents(self, seeds: list[int]) -> Float[Tensor, "b z h w"]:
        """Return the latents of the style of each seed."""
        return self.styles[[seed % len(self.styles) for seed in seeds]]
