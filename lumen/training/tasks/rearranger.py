"""Rearranger (after Chae et al. 2024, arXiv:2402.14395): feature maps of a frozen generator, moved to match a mask."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from lightning.pytorch import LightningDataModule
from torch import Tensor, nn

from lumen.core.errors import BadConfig
from lumen.core.interfaces import Batch, Conditioning, Generator, Optimization, Preview, Stage, Task
from lumen.core.random import stable_seed
from lumen.core.ranges import Range
from lumen.core.registry import tasks
from lumen.core.visualize import preview_columns
from lumen.training.bank import SampleBank
from lumen.training.rearrangement import (
    Critic,
    CrossAttentionRearranger,
    Mapper,
    MaskReader,
    apply_frozen,
    cluster_means,
    one_hot,
)

RECONSTRUCTION_WEIGHT = 10  # of the L1 distance of features that are moved to their own mask


@tasks.register
class Rearranger(Task):
    """Training of a rearranger and a mapper on samples of a frozen generator; see docs/siblings.md.

    Each training image stands for one sample of a bank. Clusters of a sample's dense features are its proxy mask. The
    rearranger moves features of a sample to the proxy mask of another, one of the styles; the mapper finds the proxy
    mask of a layout.

    Args:
        clusters: Clusters of a proxy mask.
        centre: Whether the mean feature of each image is removed before clustering, and with it much of its colours.
        styles: Samples that outputs start from; they stay in the checkpoint.
        pairs: Labelled training images, for conditionings of label maps: a number, whose labels a small head learns to
            give to the bank, or all.
        width: Channels inside the rearranger.
        style: Weight of the term that keeps the mean feature of each cluster.
        adversary: Weight of the adversarial term.
        palette: Weight of a style's own clusters in the choice of its mask; 0 takes what the mapper finds most likely.
        generator: Generator with `latents`, `invert`, `features`, `render` and `dense_features`, such as unconditional.
        conditioning: Map from a batch to its layout.
        classes: Class names of the data set.
        size: Side of an image in pixels.
    """

    is_prompted = False
    metrics = ("miou", "si_depth", "kid", "lpips", "colour")
    settings = {"generator": "unconditional", "lr": 1e-3, "batch": 16, "steps": 2000, "warmup": 20}
    reference_rows = {
        "real": "real images",
        "vae": "VAE round trip",
        "source": "sample before it is rearranged",
        "proxy": "the image's own proxy mask",
        "shuffled": "another image's mask",
    }
    shared_rows = ("real", "vae")
    weights_hint = "the same diffusion.weights, revision and vae"
    trained_network = "rearranger"

    def __init__(
        self,
        clusters: Annotated[int, Range(2, 4096)] = 50,
        centre: bool = False,
        styles: Annotated[int, Range(2, 65_536)] = 128,
        pairs: Annotated[int, Range(1, 10_000_000)] | Literal["all"] = "all",
        width: Annotated[int, Range(16, 4096)] = 96,
        style: Annotated[float, Range(0, 1000)] = 3.0,
        adversary: Annotated[float, Range(0, 1000)] = 0.2,
        palette: Annotated[float, Range(0, 100)] = 0.5,
        *,
        generator: Generator,
        conditioning: Conditioning,
        classes: tuple[str, ...],
        size: int,
        optimization: Optimization,
        seed: int = 0,
    ):
        super().__init__(optimization, seed)
        if not hasattr(generator, "dense_features"):
            raise BadConfig(
                "task=rearranger rearranges the feature maps of a generator that is split in two; leave generator out, "
                "or write generator=unconditional."
            )
        if width % 16:
            raise BadConfig(f"task.width={width} is not possible; choose a multiple of 16.")
        self.generator, self.conditioning = generator, conditioning
        self.num_clusters, self.palette, self.style_weight, self.adversary_weight = clusters, palette, style, adversary
        self.bank = SampleBank(generator, conditioning, (size, size), clusters, centre, styles, pairs, len(classes))
        channels = generator.feature_channels
        self.reader = MaskReader(channels, clusters, width)
        self.critic = Critic(channels, width)
        self.mapper = Mapper(conditioning.channels, clusters)
        self.rearranger = CrossAttentionRearranger(channels, clusters, width)

    # ---- networks

    @property
    def frozen_networks(self) -> dict[str, nn.Module]:
        """Networks of the generator and of the conditioning."""
        return self.generator.networks | self.conditioning.networks

    @property
    def identity(self) -> dict[str, str]:
        """Hashes of the generator's frozen networks; the conditioning verifies its own."""
        return self.generator.identity

    @property
    def source(self) -> str:
        """Origin of the generator's frozen weights."""
        return self.generator.source

    # ---- bank and cache

    def fit_statistics(self, data: LightningDataModule, cached: Callable[..., Tensor] | None = None) -> None:
        """Fit the conditioning, the clusters, and the head that gives labels."""
        self.bank.fit(data, self.seed, cached)

    def cache_keys(self, arguments: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        """Return the samples of the bank, their proxy masks, and what the mapper learns from."""
        return self.bank.cache_keys(arguments)

    def encode(self, name: str, batch: Batch) -> Tensor:
        """Return one cacheable output of a batch."""
        return self.bank.encode(name, batch)

    def needs_images(self, cached: Iterable[str]) -> bool:
        """Return whether something is still computed from images."""
        return self.bank.needs_images(cached)

    # ---- training

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        cached = self.bank.complete(batch)
        layout = self.bank.layout_of(cached, batch.id)
        wanted = cached.get("photo_proxies", cached["proxies"]).long()
        target = self.bank.target_masks([(self.seed, "target", name, self.global_step) for name in batch.id])
        losses = self.losses(self.bank.standardize(cached["bank"]), cached["proxies"].long(), target, layout, wanted)
        loss = sum(losses.values())
        self.log_dict({f"train/{name}": value for name, value in losses.items()}, batch_size=len(wanted))
        self.log("train/loss", loss, sync_dist=True, batch_size=len(wanted))
        return loss

    def losses(
        self,
        features: Float[Tensor, "b c h w"],
        mask: Int[Tensor, "b h w"],
        target: Int[Tensor, "b h w"],
        layout: Float[Tensor, "b k _ _"],
        wanted: Int[Tensor, "b h w"],
    ) -> dict[str, Float[Tensor, ""]]:
        """Return all terms of the loss.

        Args:
            features: Standardised features of samples.
            mask: Their proxy masks.
            target: Proxy masks that they are moved to.
            wanted: Proxy masks that the mapper should find from the layouts.
        """
        own, other = one_hot(mask, self.num_clusters), one_hot(target, self.num_clusters)
        twice = torch.cat([features, features]), torch.cat([own, own]), torch.cat([own, other])
        same, moved = self.rearranger(*twice).chunk(2)
        (before, _), (after, sizes) = cluster_means(features, own), cluster_means(moved, other)
        shared = ((own.sum((2, 3)) > 0) & (sizes > 0)).float()[..., None]
        gaps = ((after - before).abs() * shared).sum((1, 2)) / (shared.sum((1, 2)) * features.shape[1]).clamp(min=1)
        verdict = apply_frozen(self.critic, moved)
        real, fake = self.critic(features), self.critic(moved.detach())
        return {
            "reader": F.cross_entropy(self.reader(features), mask),
            "mapper": F.cross_entropy(self.mapper(layout, tuple(mask.shape[-2:])), wanted),
            "same": RECONSTRUCTION_WEIGHT * F.l1_loss(same, features),
            "mask": F.cross_entropy(apply_frozen(self.reader, moved), target),
            "style": self.style_weight * gaps.mean(),
            "adversary": -self.adversary_weight * verdict.mean(),
            "critic": F.relu(1 - real).mean() + F.relu(1 + fake).mean(),
        }

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Log the loss on photos, whose layouts and proxy masks are their own."""
        z = self.generator.invert(batch.image)
        mask = self.bank.proxy_mask(z)
        target = self.bank.target_masks([("validation", name) for name in batch.id])
        losses = self.losses(self.bank.standardize(z), mask, target, self.conditioning(batch), mask)
        values = {f"val/{name}": losses[name] for name in ("mapper", "same", "mask", "style")}
        values["val/loss"] = sum(values.values())
        self.log_dict(values, on_epoch=True, sync_dist=True, batch_size=len(mask))

    # ---- outputs

    @torch.no_grad()
    def outputs(
        self,
        batch: Batch,
        seeds: list[list[int]],
        row: str = "test",
        other: Callable[[], Batch] | None = None,
        **sampling: Any,
    ) -> Float[Tensor, "b n 3 H W"]:
        """Return images in [-1, 1], n per image of the batch; `extra` of the batch gets the styles that they began as.

        Args:
            row: "test" moves a sample of the seed to the mask that the mapper finds for the image's layout, "shuffled"
                to that of another image's layout (the floor), and "proxy" to the image's own proxy mask. "source" is
                the sample itself, "real" the image, "vae" its round trip through the autoencoder.
        """
        if row in ("real", "vae"):
            image = batch.image if row == "real" else self.generator.reconstruct(batch.image)
            return torch.stack([image] * len(seeds), dim=1)
        sources = [self.bank.style_latents(image_seeds) for image_seeds in seeds]
        styles = torch.stack([self.generator.render(self.generator.features(z)) for z in sources], dim=1)
        batch.extra["style"] = list(styles)
        if row == "source":
            return styles
        logits = self.mask_logits(batch if row != "shuffled" else other(), row == "proxy")
        return torch.stack([self.rearrange(z, logits) for z in sources], dim=1)

    def num_outputs(self, row: str, samples: int) -> int:
        """Return 1 for rows without randomness."""
        return 1 if row in ("real", "vae") else samples

    @torch.no_grad()
    def mask_logits(self, batch: Batch, is_exemplar: bool = False) -> Float[Tensor, "b k h w"]:
        """Return the logits of proxy masks that the mapper finds for layouts, or the images' own masks."""
        if is_exemplar:
            return one_hot(self.bank.proxy_mask(self.generator.invert(batch.image)), self.num_clusters).log()
        return self.mapper(self.conditioning(batch), tuple(self.bank.styles.shape[-2:]))

    @torch.no_grad()
    def rearrange(self, z: Float[Tensor, "b z h w"], logits: Float[Tensor, "b k h w"]) -> Float[Tensor, "b 3 H W"]:
        """Return the images of latents whose features are moved to match a mask.

        The mapper's logits say what a cell may be in any sample. By Bayes' rule, those of this sample follow from the
        shares of clusters in its own mask and in all styles, so that its own colours fill what a layout leaves open.
        """
        own = one_hot(self.bank.proxy_mask(z), self.num_clusters)
        odds = self.bank.log_odds(own)[..., None, None]
        target = one_hot((logits.float() + self.palette * odds).argmax(1), self.num_clusters)
        return self.bank.render(self.rearranger(self.bank.standardize(z), own, target))

    def preview(self, batch: Batch, num_samples: int, seed: int, **sampling: Any) -> Preview:
        """Return image, layout and samples side by side."""
        seeds = [[stable_seed(seed, "grid", image_id, k) for image_id in batch.id] for k in range(num_samples)]
        samples = self.outputs(batch, seeds).unbind(1)
        return Preview(preview_columns(batch.image, self.visualize(batch), list(samples)), batch.caption, {})

    def visualize(self, batch: Batch) -> Float[Tensor, "b 3 h w"]:
        """Return the layout as RGB."""
        return self.conditioning.visualize(self.layout(batch))

    @torch.no_grad()
    def layout(self, batch: Batch) -> Float[Tensor, "b k h w"]:
        """Return the layout."""
        return self.conditioning(batch)

    @property
    def legend(self) -> str:
        """Legend of the conditioning."""
        return self.conditioning.legend

    def protocol(self) -> dict[str, Any]:
        """Return the frozen weights and the noise schedule."""
        return {"diffusion": self.generator.protocol()}

    def summary_metrics(self) -> dict[str, float]:
        """Return those of the conditioning, such as the explained variance."""
        return self.conditioning.summary_metrics()

    def save(self, directory: Path) -> None:
        """Write what the conditioning estimated, such as a PCA basis."""
        self.conditioning.save(directory)

    # ---- cost

    @property
    def uncounted(self) -> str | None:
        """Name of the conditioning if it has networks, which run before training, as the sampler of the bank does."""
        return type(self.conditioning).__module__.rpartition(".")[2] if self.conditioning.networks else None

    def stages(self, image: Float[Tensor, "b 3 H W"]) -> Iterator[Stage]:
        """Yield the first half of the generator, and the networks that learn; a cache holds what they learn from."""
        z = image.new_empty(len(image), *self.bank.styles.shape[1:])
        features = self.bank.standardize(z)
        layout = image.new_empty(len(image), self.conditioning.channels, *image.shape[-2:])
        mask = torch.zeros(len(z), *z.shape[-2:], dtype=torch.long)
        yield Stage("features", "latents", cached_values=z.numel() + layout.numel())
        yield Stage("rearranger", "forward", loss=sum(self.losses(features, mask, mask, layout, mask).values()))
