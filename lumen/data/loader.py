"""Data loader of batches, and their collation."""

from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader

from lumen.core.errors import BadCheckpoint, Mistake
from lumen.core.interfaces import Batch
from lumen.data.sampler import ResumableSampler


class Loader(DataLoader):
    """Data loader that raises the `Mistake` of a worker unchanged; PyTorch would wrap it in the text of a traceback.

    Attributes:
        converts_images: Whether images are converted from bytes to numbers in [-1, 1]. Otherwise the trainer converts
            them when it moves a batch to its device.
    """

    converts_images = True

    def __iter__(self) -> Iterator[Batch]:
        for batch in super().__iter__():
            if isinstance(batch, Mistake):
                break
            yield batch.to("cpu") if self.converts_images else batch
        else:
            return
        # The workers end here. Left to the garbage collector, in a cycle with the traceback, they take 10 s.
        self._iterator = None
        raise batch

    def state_dict(self) -> dict[str, int]:
        """Return everything that the order of images depends on. The trainer counts the position in that order."""
        return self.sampler.order_settings() if isinstance(self.sampler, ResumableSampler) else {}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Verify that a checkpoint has the same order of images.

        Raises:
            BadCheckpoint: The number of images, the batch size, the seed or the number of ranks differs.
        """
        changed = [f"{k} was {state[k]} and is {v}" for k, v in self.state_dict().items() if state.get(k, v) != v]
        if changed:
            raise BadCheckpoint(
                f"the run cannot be resumed in the same order of images: {', '.join(changed)}; restore that setting, "
                "or start a new run."
            )


def collate(samples: list[dict[str, Any]] | Batch | Mistake) -> Batch | Mistake:
    """Return samples of one size as a batch, with images as bytes and one list per kind of `extra`."""
    if isinstance(samples, Batch | Mistake):
        return samples
    kinds = sorted({kind for sample in samples for kind in sample["extra"]})
    return Batch(
        image=torch.stack([sample["image"] for sample in samples]),
        caption=[sample["caption"] for sample in samples],
        id=[sample["id"] for sample in samples],
        mask=torch.stack([sample["mask"] for sample in samples]).long(),
        extra={kind: [sample["extra"].get(kind) for sample in samples] for kind in kinds},
    )
