"""DataLoader of batches, and their collation."""

from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader

from lumen.core.errors import BadCheckpoint, Mistake
from lumen.core.interfaces import Batch


class Loader(DataLoader):
    """A DataLoader that raises a worker's mistake as it was said: PyTorch would bury it in a traceback's text."""

    moves = True  # whether whoever takes the batches would not move them, and with that make numbers of the bytes

    def __iter__(self) -> Iterator[Batch]:
        for batch in super().__iter__():
            if isinstance(batch, Mistake):
                break
            yield batch.to("cpu") if self.moves else batch
        else:
            return
        # The workers end here: left to the garbage collector, in a cycle with the traceback, they take 10 s.
        self._iterator = None
        raise batch

    def state_dict(self) -> dict[str, int]:
        """What the order of the images depends on; where it stands is the trainer's to count."""
        names = ("images", "batch", "seed", "world")
        return {name: getattr(self.sampler, name) for name in names if hasattr(self.sampler, name)}

    def load_state_dict(self, state: dict[str, int]) -> None:
        changed = [f"{k} was {state[k]} and is {v}" for k, v in self.state_dict().items() if state.get(k, v) != v]
        if changed:
            raise BadCheckpoint(
                f"the run cannot go on in the same order: {', '.join(changed)}; set it back, or start a new run."
            )


def collate(samples: list[dict[str, Any]] | Batch | Mistake) -> Batch | Mistake:
    """Samples of one size to a batch, the image as bytes; `extra` becomes one list per key."""
    if isinstance(samples, Batch | Mistake):
        return samples
    kinds = sorted({kind for sample in samples for kind in sample["extra"]})
    return Batch(
        image=torch.stack([s["image"] for s in samples]),
        caption=[s["caption"] for s in samples],
        id=[s["id"] for s in samples],
        mask=torch.stack([s["mask"] for s in samples]).long(),
        extra={kind: [s["extra"].get(kind) for s in samples] for kind in kinds},
    )
