"""Layout to image (Wang et al. 2024): a generator learns to reconstruct an image from its layout and caption."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from lightning.pytorch import LightningDataModule
from torch import Tensor, nn

from lumen.core.files import write
from lumen.core.interfaces import Batch, Conditioning, Generator, Optimization, Preview, Stage, Task
from lumen.core.interfaces.script import WeightsExpression
from lumen.core.random import keyed_uniform, stable_seed
from lumen.core.registry import tasks
from lumen.core.visualize import preview_columns
from lumen.training.fit_conditioning import fit_conditioning

VALIDATION_BINS = 4  # equal parts of the noise schedule that the validation loss is reported for
PREVIEW_IMAGES = 4  # assumed by the cost estimate


@tasks.register
class LayoutToImage(Task):
    """Training of a generator to reconstruct an image from its layout and caption.

    Args:
        generator: Model that is trained.
        conditioning: Map from a batch to its layout.
        optimization: Options of AdamW.
        seed: Seed of timesteps, noise and prompt dropout.
    """

    takes_layouts = True
    reference_rows = {
        "real": "real images",
        "vae": "VAE round trip",
        "text": "caption alone",
        "shuffled": "another image's layout",
    }
    shared_rows = ("real", "vae", "text")
    weights_hint = "the same diffusion.weights, revision and vae"
    phase_names = Task.phase_names | {
        "latents": "while images are encoded",
        "layout": "while layouts are computed",
        "picture": "while the sample grid is generated",
    }

    def __init__(self, *, generator: Generator, conditioning: Conditioning, optimization: Optimization, seed: int = 0):
        super().__init__(optimization, seed)
        self.diffusion, self.conditioning = generator, conditioning  # both names are part of the keys of checkpoints

    @property
    def generator(self) -> Generator:
        """Model that is trained."""
        return self.diffusion

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

    # ---- statistics and cache

    def fit_statistics(self, data: LightningDataModule, cached: Callable[..., Tensor] | None = None) -> None:
        """Fit the conditioning, such as a PCA basis, to training images."""
        fit_conditioning(self.conditioning, data, self.seed, cached)

    def cache_keys(self, arguments: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        """Return latents, which all runs on a data set share, and layouts, which all runs with the same basis share."""
        return {
            "latents": self.generator.latents_key,
            "layouts": {"conditioning": self.conditioning.cache_key(arguments["conditioning"])},
        }

    def encode(self, name: str, batch: Batch) -> Tensor:
        """Return the moments of the latents, or the expensive part of the layout."""
        if name == "latents":
            return self.generator.encode(batch.image)
        if "latents" not in batch.cached:
            return self.conditioning.encode(batch)
        with self.generator.known_latents(batch.cached["latents"].float()):
            return self.conditioning.encode(batch)

    def needs_images(self, cached: Iterable[str]) -> bool:
        """Return whether layouts are still computed from images."""
        return "layouts" not in cached

    # ---- training

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        latent_moments, layout = self.encode_batch(batch)
        keys = [(self.seed, image_id, self.global_step) for image_id in batch.id]
        loss = self.generator.loss(latent_moments, batch.caption, layout, keys).mean()
        self.log("train/loss", loss, sync_dist=True, batch_size=len(layout))
        return loss

    def encode_batch(self, batch: Batch) -> tuple[Float[Tensor, "b n h w"], Float[Tensor, "b k _ _"]]:
        """Return latent moments and layout, from the cache where it has them."""
        cached = batch.cached
        moments = cached["latents"].float() if "latents" in cached else self.generator.encode(batch.image)
        if "layouts" in cached:
            return moments, self.conditioning.to_layout(cached["layouts"].float())
        with self.generator.known_latents(moments):
            return moments, self.conditioning(batch)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Log the loss at one fixed timestep and noise per bin, comparable between steps, runs and ranks."""
        latent_moments, layout = self.encode_batch(batch)
        last = self.generator.num_train_timesteps
        total = 0
        for part in range(VALIDATION_BINS):
            keys = [("validation", image_id, part) for image_id in batch.id]
            share = keyed_uniform([(*k, "timestep") for k in keys])
            timesteps = ((part + share) * last / VALIDATION_BINS).long()
            loss = self.generator.loss(latent_moments, batch.caption, layout, keys, timesteps).mean()
            low, high = part * last // VALIDATION_BINS, (part + 1) * last // VALIDATION_BINS - 1
            self.log(f"val/loss_t{low:04d}-{high:04d}", loss, on_epoch=True, sync_dist=True, batch_size=len(layout))
            total = total + loss / VALIDATION_BINS
        self.log("val/loss", total, on_epoch=True, sync_dist=True, batch_size=len(layout))

    def compile_networks(self) -> None:
        """Compile the generator."""
        self.generator.compile_networks()

    def to_channels_last(self) -> None:
        """Lay out the generator's convolutions channels-last; by NVIDIA's figures a fifth faster."""
        self.generator.to(memory_format=torch.channels_last)

    # ---- outputs

    @torch.no_grad()
    def outputs(
        self,
        batch: Batch,
        seeds: list[list[int]],
        row: str = "test",
        other: Callable[[], Batch] | None = None,
        layout: Float[Tensor, "b k _ _"] | None = None,
        **sampling: Any,
    ) -> Float[Tensor, "b n 3 H W"]:
        """Return images in [-1, 1], n per image of the batch.

        Args:
            layout: Layout in place of the image's own, for the row "test".
            row: "test" generates from the image's own layout and caption. "real" is the image itself, "vae" its round
                trip through the autoencoder (the ceiling), "text" a sample from the caption alone, "shuffled" one
                from the caption and the layout of another image (the floor).
        """
        if row in ("real", "vae"):
            image = batch.image if row == "real" else self.generator.reconstruct(batch.image)
            return torch.stack([image] * len(seeds), dim=1)
        if row != "test":
            layout = None if row == "text" else self.conditioning(other())
        elif layout is None:
            layout = self.conditioning(batch)
        return torch.stack([self._sample(batch, layout, image_seeds, sampling) for image_seeds in seeds], dim=1)

    def num_outputs(self, row: str, samples: int) -> int:
        """Return 1 for rows without randomness."""
        return 1 if row in ("real", "vae") else samples

    @torch.no_grad()
    def preview(self, batch: Batch, num_samples: int, seed: int, **sampling: Any) -> Preview:
        """Return image, layout and samples side by side, and `val/response`.

        `val/response` is the mean change of the first sample, as a share of the range of a pixel, when the image gets
        the layout of another image and all else stays, noise included. At 0 the layout has no effect.
        """
        layout = self.conditioning(batch)
        seeds = [[stable_seed(seed, "grid", image_id, k) for image_id in batch.id] for k in range(num_samples)]
        samples = [self._sample(batch, layout, image_seeds, sampling) for image_seeds in seeds]
        mismatched = self._sample(batch, layout.roll(1, dims=0), seeds[0], sampling)
        scalars = {"val/response": (samples[0] - mismatched).abs().mean() / 2} if len(layout) > 1 else {}
        columns = preview_columns(batch.image, self.conditioning.visualize(layout), samples)
        return Preview(columns, batch.caption, scalars)

    @torch.no_grad()
    def visualize(self, batch: Batch) -> Float[Tensor, "b 3 h w"]:
        """Return the layout as RGB."""
        return self.conditioning.visualize(self.conditioning(batch))

    @torch.no_grad()
    def layout(self, batch: Batch) -> Float[Tensor, "b k h w"]:
        """Return the layout."""
        return self.conditioning(batch)

    def visualize_layout(self, layout: Float[Tensor, "b k h w"]) -> Float[Tensor, "b 3 h w"]:
        """Return layouts as RGB."""
        return self.conditioning.visualize(layout)

    @property
    def explained(self) -> list[float] | None:
        """Shares of the axes of the conditioning."""
        return self.conditioning.explained

    @property
    def legend(self) -> str:
        """Legend of the conditioning."""
        return self.conditioning.legend

    def _sample(
        self, batch: Batch, layout: Float[Tensor, "b k _ _"] | None, seeds: list[int], sampling: dict[str, Any]
    ) -> Float[Tensor, "b 3 H W"]:
        return self.generator.sample(batch.caption, layout, seeds, tuple(batch.image.shape[-2:]), **sampling)

    def protocol(self) -> dict[str, Any]:
        """Return the frozen weights and the noise schedule."""
        return {"diffusion": self.generator.protocol()}

    def summary_metrics(self) -> dict[str, float]:
        """Return those of the conditioning, such as the explained variance."""
        return self.conditioning.summary_metrics()

    def save(self, directory: Path) -> None:
        """Write what the conditioning estimated, such as a PCA basis."""
        self.conditioning.save(directory)

    def export(self, directory: Path, size: int, locate: WeightsExpression) -> dict[str, Any]:
        """Write controlnet/, the basis of the layouts, and layout.py, where there is a program that makes them."""
        facts = self.generator.export(directory / "controlnet")
        self.conditioning.save(directory)
        latents = size // self.generator.downscale if facts["hint"] == "latent" else None
        program = self.conditioning.script(size, latents, locate)
        if program is not None:
            write(directory / "layout.py", program)
        return facts | {"latents": latents, "base": locate(self.source, "base"), "has_layout": program is not None}

    # ---- cost

    @property
    def display_names(self) -> dict[str, str]:
        """Names of the generator's networks."""
        return self.generator.display_names

    @property
    def trained_network(self) -> str:
        """Name of the generator."""
        return _module_name(self.generator)

    @property
    def uncounted(self) -> str | None:
        """Name of the conditioning if it has networks besides a backbone, which run outside of PyTorch's tracing."""
        return _module_name(self.conditioning) if set(self.conditioning.networks) - {"backbone"} else None

    def stages(self, image: Float[Tensor, "b 3 H W"]) -> Iterator[Stage]:
        """Yield autoencoder, layout, and the stages of the generator."""
        moments = self.generator.encode(image)
        yield Stage("autoencoder", "latents", cached_values=moments.numel())
        with self.generator.known_latents(moments):
            code = self._traced_code(image)
        values, layout = code.numel(), self.conditioning.to_layout(code)
        del code
        yield Stage("layout", "layout", cached_values=values)
        yield from self.generator.loss_stages(moments, layout)

    def preview_stages(self, image: Float[Tensor, "1 3 H W"], guidance: float) -> Iterator[Stage]:
        """Yield the stages in which the sample grid is generated."""
        yield from self.sample_stages(image.expand(PREVIEW_IMAGES, -1, -1, -1), guidance)

    def sample_stages(self, image: Float[Tensor, "b 3 H W"], guidance: float, row: str = "test") -> Iterator[Stage]:
        """Yield the layout and the stages of the generator, or the round trip through the autoencoder."""
        if row in ("real", "vae"):
            if row == "vae":
                self.generator.reconstruct(image)
            yield Stage(row)
            return
        layout = torch.cat([self.conditioning.to_layout(self._traced_code(image))] * (1 + (guidance > 1)))
        yield Stage("layout")
        yield from self.generator.sample_stages(layout, tuple(image.shape[-2:]))

    def _traced_code(self, image: Float[Tensor, "b 3 H W"]) -> Tensor:
        """Return what the cache would hold of a layout; without a backbone a tensor as large as the image."""
        if "backbone" not in self.conditioning.networks:
            return image.new_empty(len(image), self.conditioning.channels, *image.shape[-2:])
        return self.conditioning.encode(Batch(image, [""] * len(image), ["image"] * len(image)))


def _module_name(module: nn.Module) -> str:
    return type(module).__module__.rpartition(".")[2]
