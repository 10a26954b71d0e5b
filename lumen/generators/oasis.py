"""OASIS (Schönfeld et al. 2021, arXiv:2012.04781): a GAN from label maps, whose noise has a part for each class."""

from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from lumen.core.errors import BadConfig, BadSize
from lumen.core.interfaces import IGNORE
from lumen.core.random import keyed_normal
from lumen.core.registry import generators
from lumen.diffusion.latent_diffusion import LatentDiffusion
from lumen.diffusion.stable_diffusion import StableDiffusion, encode_latents
from lumen.features.oasis import OasisConfig, load_oasis

TINY: dict[str, Any] = {"noise": 16, "widths": (96, 96, 64, 64), "hidden": 32}


@generators.register
class Oasis(LatentDiffusion):
    """Frozen OASIS, which trains nothing here; `python -m lumen.scenes.recipes oasis` trains one for scenes.

    It generates latents of the autoencoder, or images. The task `directions` edits what it generates.

    Args:
        weights: "scenes", a folder that the recipe wrote, or none (untrained).
        size: Architecture where weights is none: tiny generates latents, published images.
        base: Frozen Stable Diffusion, whose autoencoder decodes the latents.
        classes: Class names of the data set, in the order of their ids.
    """

    requires = {"conditioning": "segmap", "steps": 0}

    def __init__(
        self,
        weights: str = "scenes",
        size: Literal["tiny", "published"] = "tiny",
        *,
        base: StableDiffusion,
        classes: tuple[str, ...],
    ):
        super().__init__(base)
        channels = base.vae.config.latent_channels
        tiny = OasisConfig(classes, **TINY, patch=base.downscale, channels=channels)
        network = load_oasis(weights, tiny if size == "tiny" else OasisConfig(classes))
        known = network.config.classes
        if known != classes:
            unknown = sorted(set(classes) - set(known)) or sorted(set(known) - set(classes)) or ["another order"]
            raise BadConfig(
                f"generator.weights={weights} was trained on a data set of {len(known)} classes, and this one has "
                f"{len(classes)} ({unknown[0]} differs); give the folder of a generator that was trained on this data."
            )
        if network.config.patch > 1 and (network.config.patch, network.config.channels) != (base.downscale, channels):
            raise BadConfig(
                f"generator.weights={weights} generates latents of another autoencoder; give the diffusion.weights "
                "that it was trained with."
            )
        self.frozen = {"oasis": network}  # a plain dict keeps it out of state_dict

    @property
    def networks(self) -> dict[str, nn.Module]:
        """Frozen networks by name."""
        return super().networks | self.frozen

    @property
    def network(self) -> nn.Module:
        """Generator of latents or images from label maps and noise."""
        return self.frozen["oasis"]

    @property
    def noise_shape(self) -> tuple[int, int]:
        """Classes, and numbers of the noise of each."""
        return len(self.network.config.classes), self.network.config.noise

    def noise(self, keys: list[tuple]) -> Float[Tensor, "b c n"]:
        """Return the noise of each image by its key."""
        return keyed_normal(self.noise_shape, keys).to(self.network.mean.device)

    def verify_size(self, size: tuple[int, int]) -> None:
        """Verify that the first block has whole cells.

        Raises:
            BadSize: It has not.
        """
        cell = self.network.config.downscale
        if any(side % cell for side in size):
            side = max(1, size[0] // cell) * cell
            raise BadSize(f"size={size[0]} is no multiple of {cell}, which OASIS needs; choose size={side}.")

    def render(self, labels: Int[Tensor, "b H W"], z: Float[Tensor, "b c n"]) -> Float[Tensor, "b 3 H W"]:
        """Return the images of label maps and noises."""
        self.verify_size(tuple(labels.shape[-2:]))
        output = self.network.generate(labels, z)
        return output.clamp(-1, 1) if self.network.config.patch == 1 else self.decode(output)

    @torch.no_grad()
    def sample_latents(
        self,
        caption: list[str],
        layout: Float[Tensor, "b k _ _"] | None,
        seeds: list[int],
        size: tuple[int, int],
        **sampling: Any,
    ) -> Float[Tensor, "b z h w"]:
        """Return one sample per layout and seed as latents; without a layout what the U-Net generates of captions."""
        if layout is None:
            return super().sample_latents(caption, layout, seeds, size, **sampling)
        labels, z = self.labels_of(layout), self.noise([(seed, "oasis") for seed in seeds])
        self.verify_size(tuple(labels.shape[-2:]))
        output = self.network.generate(labels, z)
        return output if self.network.config.patch > 1 else encode_latents(self.base.vae, output)

    @torch.no_grad()
    def sample(
        self,
        caption: list[str],
        layout: Float[Tensor, "b k _ _"] | None,
        seeds: list[int],
        size: tuple[int, int],
        **sampling: Any,
    ) -> Float[Tensor, "b 3 H W"]:
        """Return one sample per layout and seed; images need no autoencoder."""
        if layout is None:
            return super().sample(caption, layout, seeds, size, **sampling)
        return self.render(self.labels_of(layout), self.noise([(seed, "oasis") for seed in seeds]))

    def labels_of(self, layout: Float[Tensor, "b k H W"]) -> Int[Tensor, "b H W"]:
        """Return the label maps of layouts that have one channel per class.

        Raises:
            BadConfig: The layouts are colours.
        """
        if layout.shape[1] != self.noise_shape[0]:
            raise BadConfig("generator=oasis needs one channel per class; leave out conditioning.form.")
        return torch.where(layout.sum(1) > 0, layout.argmax(1), IGNORE)
