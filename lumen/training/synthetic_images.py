"""Synthetic training images: those that a trained run generates in place of a share of the images of each batch."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from lumen.core.interfaces import Batch, Task
from lumen.core.random import keyed_uniform, stable_seed
from lumen.core.tensor_hashing import fingerprint


class SyntheticImages(nn.Module):
    """Images that a trained run generates for training images, whose label maps they keep.

    Args:
        task: Task of the run, with what it has learnt.
        caption: Function of an image's id and a domain that returns the prompt; the domain None means its own caption.
        domains: Domains into which prompts move the images; none means that images keep their own captions.
        copies: Generated images for each training image and domain.
        row: Outputs of the task that are taken: "test", "vae" for round trips through the autoencoder, or "shuffled",
            whose label maps are those of another image of the batch.
        sampling: The config's `sampling`, without the number of images.
        seed: Seed of the generated images.
    """

    def __init__(
        self,
        task: Task,
        caption: Callable[[str, str | None], str],
        domains: Sequence[str] = (),
        copies: int = 1,
        row: str = "test",
        sampling: dict[str, Any] | None = None,
        seed: int = 0,
    ):
        super().__init__()
        self.task, self.caption, self.row, self.sampling, self.seed = task, caption, row, sampling or {}, seed
        # A name is that of a cache entry too.
        self.sets = {
            f"synthetic-{domain or 'own'}-{copy}": (domain, copy)
            for domain in domains or [None]
            for copy in range(copies)
        }

    def cache_keys(self) -> dict[str, dict[str, Any]]:
        """Return everything that the images of each set depend on besides the training image and its caption."""
        common = {
            "learnt": fingerprint(self.task),
            "frozen": self.task.identity,
            "row": "vae" if self.row == "vae" else "test",
            "sampling": self.sampling,
            "seed": self.seed,
        }
        return {name: common | {"domain": domain, "copy": copy} for name, (domain, copy) in self.sets.items()}

    @torch.no_grad()
    def generate(self, name: str, batch: Batch) -> UInt8[Tensor, "b 3 H W"]:
        """Return the images of a set for a batch; each depends on its training image alone."""
        domain, copy = self.sets[name]
        prompts = [self.caption(image_id, domain) for image_id in batch.id]
        seeds = [[stable_seed(self.seed, "synthesis", image_id, domain or "", copy) for image_id in batch.id]]
        row = "vae" if self.row == "vae" else "test"
        images = self.task.outputs(replace(batch, caption=prompts, cached={}), seeds, row, **self.sampling)[:, 0]
        return ((images + 1) * 127.5).round().clamp(0, 255).byte()

    def mix(self, batch: Batch, share: float, keys: list[tuple]) -> Float[Tensor, "b 3 H W"]:
        """Return the images of a batch, a share of which is replaced by generated ones.

        Args:
            keys: One per image, such as (seed, id, step); which are replaced, and from which set, follows from it.
        """
        images, names = batch.image.clone(), [*self.sets]
        is_replaced = keyed_uniform([(*key, "synthetic") for key in keys]) < share
        numbers = (keyed_uniform([(*key, "set") for key in keys]) * len(names)).long()
        for number, name in enumerate(names):
            rows = (is_replaced & (numbers == number)).nonzero()[:, 0]
            if not len(rows):
                continue
            source = (rows + 1) % len(images) if self.row == "shuffled" else rows
            source = source.to(images.device)
            cached = batch.cached.get(name)
            generated = self.generate(name, batch.take(source)) if cached is None else cached[source]
            images[rows.to(images.device)] = generated.float() / 127.5 - 1
        return images
