"""Generator: map from caption and layout to an image."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from lumen.core.errors import BadConfig
from lumen.core.interfaces.stage import Stage
from lumen.core.tensor_hashing import fingerprint


class Generator(nn.Module):
    """Model of p(image | caption, layout).

    Subclasses implement `encode`, `loss`, `sample_latents` and `decode`; images are RGB in [-1, 1]. The generator
    registers only the parameters that it trains, if there are any.

    Attributes:
        requires: Settings that a config with this generator must have, as in {"conditioning": "segmap", "steps": 0}; it
            has them unless something sets others, which is refused.
        settings: Settings of this generator in place of base.yaml's, unless an experiment or a flag sets others.
        networks: Frozen networks by name. They follow the module to its device, but are neither trained nor stored in
            checkpoints.
        downscale: Image pixels per latent cell; an image size must be a multiple of it.
        num_train_timesteps: Length of the noise schedule.
        display_names: Names for readers, by name of a network or stage of the cost estimate.
    """

    requires: dict[str, Any] = {}
    settings: dict[str, Any] = {}
    networks: dict[str, nn.Module]
    downscale: int
    num_train_timesteps: int
    display_names: dict[str, str] = {}

    @cached_property
    def identity(self) -> dict[str, str]:
        """Hash of each frozen network: a generator works only with the networks that it was trained with."""
        return {name: fingerprint(network) for name, network in self.networks.items()}

    @property
    def source(self) -> str:
        """Origin of the frozen weights, for provenance."""
        return ", ".join(f"{name} {digest}" for name, digest in self.identity.items())

    def compile_networks(self) -> None:
        """Compile the networks of a training step with torch.compile."""

    def encode(self, image: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b n h w"]:
        """Return the moments of an image's latents: mean and, below it, log-variance."""
        raise NotImplementedError(f"{type(self).__name__} must implement encode()")

    def loss(
        self,
        latent_moments: Float[Tensor, "b n h w"],
        caption: list[str],
        layout: Float[Tensor, "b k _ _"],
        keys: list[tuple],
        timesteps: Int[Tensor, " b"] | None = None,
    ) -> Float[Tensor, " b"]:
        """Return the training loss of each image.

        Args:
            keys: One per image, such as (seed, id, step); all randomness follows from it.
            timesteps: Fixed timesteps for validation; then no caption is dropped and no loss weighted.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement loss()")

    def sample_latents(
        self,
        caption: list[str],
        layout: Float[Tensor, "b k _ _"] | None,
        seeds: list[int],
        size: tuple[int, int],
        **sampling: Any,
    ) -> Float[Tensor, "b z h w"]:
        """Return one sample per caption, layout and seed as latents.

        Args:
            layout: None generates from the caption alone.
            size: Height and width of the image in pixels.
            sampling: Sampler and its options, as the config's `sampling` has them.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement sample_latents()")

    def decode(self, z: Float[Tensor, "b z h w"]) -> Float[Tensor, "b 3 H W"]:
        """Return latents as images."""
        raise NotImplementedError(f"{type(self).__name__} must implement decode()")

    def sample(self, *arguments: Any, **options: Any) -> Float[Tensor, "b 3 H W"]:
        """Return the decoded `sample_latents` of the same arguments; an image does not depend on its batch."""
        return self.decode(self.sample_latents(*arguments, **options))

    def reconstruct(self, image: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b 3 H W"]:
        """Return the decoded latents of an image: the best image that this generator can make."""
        raise NotImplementedError(f"{type(self).__name__} must implement reconstruct()")

    def export(self, directory: Path) -> dict[str, Any]:
        """Write what was learnt to a folder that other programs open.

        Returns:
            `channels` of the layout, and its `hint`: "latent" or "image".

        Raises:
            BadConfig: There is no program that opens it.
        """
        raise BadConfig(
            f"no other program opens the generator {type(self).__name__}; lumen export takes runs of "
            "generator=controlnet."
        )

    @property
    def latents_key(self) -> dict[str, str]:
        """Everything that `encode` depends on besides the image."""
        return self.identity

    def known_latents(self, latent_moments: Float[Tensor, "b n h w"]) -> AbstractContextManager[None]:
        """Return a context in which a backbone that shares the autoencoder gets these moments instead of encoding."""
        return nullcontext()

    def loss_stages(self, latent_moments: Tensor, layout: Tensor) -> Iterator[Stage]:
        """Run the loss on tensors without values, and yield its stages; the last one has the loss."""
        keys = [("cost", i) for i in range(len(layout))]
        timesteps = torch.zeros(len(layout), dtype=torch.long)
        loss = self.loss(latent_moments, [""] * len(layout), layout, keys, timesteps).mean()
        yield Stage("forward", "forward", loss=loss)

    def sample_stages(self, layout: Tensor, size: tuple[int, int]) -> Iterator[Stage]:
        """Run what samples take on tensors without values, each repeated part once, and yield the stages.

        Args:
            layout: Layouts of both branches, where samples are guided.
        """
        yield from ()

    def _apply(self, fn, recurse: bool = True):
        for network in self.networks.values():
            network._apply(fn)
        return super()._apply(fn, recurse)

    def protocol(self) -> dict[str, Any]:
        """Return everything about the frozen networks that a metric value depends on."""
        return dict(self.identity)
