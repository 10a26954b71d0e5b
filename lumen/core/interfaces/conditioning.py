"""Conditioning: map from a batch to the layout that steers the generator."""

from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lumen.core.errors import BadCheckpoint
from lumen.core.interfaces.batch import Batch
from lumen.core.interfaces.script import WeightsExpression
from lumen.core.tensor_hashing import fingerprint


class Conditioning(nn.Module):
    """Map a batch to the layout that conditions the ControlNet.

    Subclasses implement `forward`. A conditioning that is expensive to compute also splits `forward` into `encode`
    (cached) and `to_layout` (cheap, run at every step), such that

        conditioning(batch) == conditioning.to_layout(conditioning.encode(batch))

    A conditioning with parameters estimated from data, such as a PCA basis, sets `fitted` to False and implements
    `compute_statistics` and `fit_from_statistics`.

    Args:
        frozen: Frozen networks by name. They follow the module to its device, but are neither trained nor stored in
            checkpoints.

    Attributes:
        channels: Channels k of the layout.
        hint: Resolution at which the layout enters the ControlNet, unless the config names one.
        fitted: Whether `forward` may run.
        num_fit_images: Training images that `compute_statistics` needs; None means all.
        statistics_key: Everything that the statistics depend on besides images and seed.
        uses_labels: Whether the layout is made of the label map alone.
        explained: Share of the variance that each stored axis explains, for conditionings that have axes.
    """

    channels: int
    hint: Literal["latent", "image"] = "image"
    fitted: bool = True
    num_fit_images: int | None = 0
    statistics_key: dict[str, Any] = {}
    uses_labels: bool = False
    explained: list[float] | None = None

    def __init__(self, **frozen: nn.Module):
        super().__init__()
        # A plain dict keeps them out of state_dict, DDP buckets, EMA and train mode.
        self.networks = {name: network.requires_grad_(False).eval() for name, network in frozen.items()}

    def forward(self, batch: Batch) -> Float[Tensor, "b k h w"]:
        raise NotImplementedError(f"{type(self).__name__} must implement forward()")

    def encode(self, batch: Batch) -> Float[Tensor, "b n h w"]:
        """Return the part of the layout that is worth caching. By default the layout itself."""
        return self(batch)

    def to_layout(self, code: Float[Tensor, "b n h w"]) -> Float[Tensor, "b k h w"]:
        """Return the layout of what `encode` returned."""
        return code

    def cache_key(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Return everything that `encode` depends on besides the batch.

        Args:
            arguments: Arguments of the conditioning that differ from their defaults.
        """
        return {"arguments": arguments, "networks": self.identity, "own": fingerprint(self)}

    def compute_statistics(self, batches: Iterable[Batch], num_images: int, seed: int) -> Float[Tensor, " n"]:
        """Return the training-set statistics that `fit_from_statistics` needs, reduced over all ranks.

        Args:
            batches: This rank's share of the images.
            num_images: Images of all ranks together.
        """
        return torch.empty(0)

    def fit_from_statistics(self, statistics: Float[Tensor, " n"], seed: int, fingerprint: str) -> None:
        """Estimate the parameters.

        Args:
            fingerprint: Fingerprint of the data set.
        """

    def fit(self, batches: Iterable[Batch], num_images: int, seed: int, fingerprint: str) -> None:
        """Compute the statistics of some images and estimate the parameters from them."""
        self.fit_from_statistics(self.compute_statistics(batches, num_images, seed), seed, fingerprint)

    def summary_metrics(self) -> dict[str, float]:
        """Return values for metrics.json, such as the explained variance."""
        return {}

    def save(self, directory: Path) -> None:
        """Write what was estimated from data, such as a PCA basis, to a run directory."""

    def script(self, size: int, latents: int | None, locate: WeightsExpression) -> str | None:
        """Return a program that computes the layout of a photo without LUMEN; None if there is none.

        Args:
            size: Side of the image in pixels.
            latents: Side of the latents in cells, where the layout enters at their size; None at that of the image.
        """
        return None

    def visualize(self, layout: Float[Tensor, "b k h w"]) -> Float[Tensor, "b 3 h w"]:
        """Return RGB in [0, 1]. By default the layout is taken to be grey or RGB values in [0, 1]."""
        return layout[:, :3] if layout.shape[1] >= 3 else layout[:, :1].expand(-1, 3, -1, -1)

    @property
    def legend(self) -> str:
        """Words that explain the picture of `visualize`; "" if it needs none."""
        return ""

    @cached_property
    def identity(self) -> dict[str, str]:
        """Hash of the weights of each frozen network."""
        return {name: fingerprint(network) for name, network in self.networks.items()}

    def get_extra_state(self) -> dict:
        """Return what a checkpoint holds besides tensors."""
        return self.identity

    def set_extra_state(self, state: dict) -> None:
        """Verify the identity that a checkpoint holds.

        Raises:
            BadCheckpoint: The checkpoint was trained on other layouts.
        """
        identity = self.identity
        changed = sorted(name for name in state.keys() | identity.keys() if state.get(name) != identity.get(name))
        if changed:
            raise BadCheckpoint(
                f"this checkpoint was trained on layouts of another {changed[0]} ({state.get(changed[0])}, here "
                f"{identity.get(changed[0])}); give the conditioning, its weights and revision, and the data of its "
                "training."
            )

    def _apply(self, fn, recurse: bool = True):
        for network in self.networks.values():
            network._apply(fn)
        return super()._apply(fn, recurse)
