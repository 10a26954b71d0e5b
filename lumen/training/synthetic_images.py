"""Synthetic training images: those that a trained run generates in place of a share of the images of each batch."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Bool, Int, UInt8
from torch import Tensor, nn

from lumen.core.hashing import hash_json
from lumen.core.interfaces import Batch, Task
from lumen.core.random import keyed_uniform, stable_seed
from lumen.core.tensor_hashing import fingerprint
from lumen.training.pixel_filter import PixelFilter


class SyntheticImages(nn.Module):
    """Images that a trained run generates for training images, whose labels they keep.

    They are generated before training starts, and read from the cache in each step.

    Args:
        task: Task of the run, with what it has learnt.
        prompts: Prompt of each training image by id, for each domain; the domain None means its own caption.
        copies: Generated images for each training image and domain.
        row: Images that are taken: "test" for generated ones, "vae" for round trips through the autoencoder, or
            "shuffled" for generated ones that get the labels of another training image.
        sampling: The config's `sampling`, without the number of images.
        arguments: Arguments of the run's components, which may decide images without being learnt.
        seed: Seed of the generated images.
        others: Function that returns for each image of a batch another training image, always the same one.
        pixel_filter: Filter of labels that generated pixels contradict.

    Attributes:
        sets: Domain and copy of each set of images, by the name of its cache entry.
    """

    def __init__(
        self,
        task: Task,
        prompts: dict[str | None, dict[str, str]],
        copies: int = 1,
        row: str = "test",
        sampling: dict[str, Any] | None = None,
        arguments: dict[str, Any] | None = None,
        seed: int = 0,
        others: Callable[[Sequence[str]], Batch] | None = None,
        pixel_filter: PixelFilter | None = None,
    ):
        super().__init__()
        self.task, self.prompts, self.row, self.sampling, self.seed = task, prompts, row, sampling or {}, seed
        self.arguments, self.others, self.pixel_filter = arguments or {}, others, pixel_filter
        self.sets = {
            f"synthetic-{domain or 'own'}-{copy}": (domain, copy) for domain in prompts for copy in range(copies)
        }

    @property
    def generated_row(self) -> str:
        """Row of the run's task that is generated."""
        return "vae" if self.row == "vae" else "test"

    @property
    def titles(self) -> dict[str, str]:
        """Title in pictures of the first copy of each set, by name."""
        own = "VAE round trip" if self.row == "vae" else "own caption"
        return {name: domain or own for name, (domain, copy) in self.sets.items() if copy == 0}

    def cache_keys(self) -> dict[str, dict[str, Any]]:
        """Return everything that the images of each set depend on besides the training images."""
        common = {
            "learnt": fingerprint(self.task),
            "frozen": self.task.identity,
            "protocol": hash_json(self.task.protocol()),
            "arguments": hash_json(self.arguments),
            "row": self.generated_row,
            "sampling": self.sampling,
            "seed": self.seed,
        }
        return {
            name: common | {"domain": domain, "copy": copy, "prompts": hash_json(self.prompts[domain])}
            for name, (domain, copy) in self.sets.items()
        }

    @torch.no_grad()
    def generate(self, name: str, batch: Batch) -> UInt8[Tensor, "b 3 H W"]:
        """Return the images of a set for a batch; each depends on its training image alone."""
        domain, copy = self.sets[name]
        prompts = [self.prompts[domain][image_id] for image_id in batch.id]
        seeds = [[stable_seed(self.seed, "synthesis", image_id, domain or "", copy) for image_id in batch.id]]
        batch = replace(batch, caption=prompts, cached={})
        images = self.task.outputs(batch, seeds, self.generated_row, **self.sampling)[:, 0]
        return replace(batch, image=images).pixels

    def mix(self, batch: Batch, share: float, keys: list[tuple]) -> Batch:
        """Return a batch, a share of whose images is replaced by generated ones from the cache.

        Args:
            keys: One per image, such as (seed, id, step); which are replaced, and from which set, follows from it.
        """
        is_generated = keyed_uniform([(*key, "synthetic") for key in keys]) < share
        names = [*self.sets]
        numbers = (keyed_uniform([(*key, "set") for key in keys]) * len(names)).long().tolist()
        generated = torch.stack([batch.cached[names[number]][i] for i, number in enumerate(numbers)])
        is_generated = is_generated.to(generated.device)
        images = torch.where(is_generated[:, None, None, None], generated.float() / 127.5 - 1, batch.image)
        mixed = replace(batch, image=images)
        if self.row == "shuffled" and bool(is_generated.any()):
            mixed = self._exchange_labels(mixed, is_generated.nonzero()[:, 0])
        if self.pixel_filter is not None:
            mixed = replace(mixed, mask=self._filter(mixed, is_generated))
        return mixed

    def _filter(self, batch: Batch, is_generated: Bool[Tensor, " b"]) -> Int[Tensor, "b H W"]:
        """Return label maps without the labels that generated pixels contradict."""
        rows = is_generated.nonzero()[:, 0]
        mask = batch.mask.clone()
        if len(rows):
            mask[rows] = self.pixel_filter(batch.image[rows], mask[rows])
        return mask

    def _exchange_labels(self, batch: Batch, rows: Int[Tensor, " n"]) -> Batch:
        """Return the batch with all that is known of other training images in some rows; the images stay."""
        indices = rows.tolist()
        other = self.others([batch.id[i] for i in indices])
        mask = batch.mask.clone()
        mask[rows] = other.mask.to(mask.device)
        extra = {kind: [*values] for kind, values in batch.extra.items()}
        for kind in (extra.keys() | other.extra.keys()) - {"captions"}:
            values = extra.setdefault(kind, [None] * len(batch.id))
            for i, value in zip(indices, other.extra.get(kind) or [None] * len(indices), strict=True):
                values[i] = value
        return replace(batch, mask=mask, extra=extra)
