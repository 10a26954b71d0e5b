"""Training images as samples, read anew, looked at in one way or taken from a cache, and their loader."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import Dataset

from lumen.core.errors import Mistake
from lumen.core.interfaces import Batch
from lumen.core.random import generator
from lumen.data.cache import Rows
from lumen.data.index import Record
from lumen.data.loader import collate
from lumen.data.transforms import Frame, chance

if TYPE_CHECKING:
    from lumen.data.datamodule import DataModule


class View(Dataset):
    """A split as samples: `view[i]` is image i as it is, `view[i, epoch]` one random look at it."""

    def __init__(self, module: "DataModule", records: list[Record]):
        self.module, self.records = module, records

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Any]:
        index, epoch = key if isinstance(key, tuple) else (key, None)
        module, parts = self.module, self.module.load(self.records[index])
        captions = parts.pop("captions")
        if epoch is None:
            return self._seen(index, parts, module.frame(parts["image"].size, None), module.prompt(captions))
        frame = module.frame(parts["image"].size, self._draw(index, self._turn(epoch), captions)[1])
        return self._seen(index, parts, frame, self.drawn(index, epoch, captions)[0])

    def drawn(self, index: int, epoch: int, captions: Sequence[str]) -> tuple[str, int]:
        """What an image is called in an epoch, and which of the looks at it the epoch takes."""
        module, (number, draw) = self.module, self._draw(index, epoch, captions)
        caption = captions[number] if captions else module.prompt(captions)
        if module.windows:
            return caption, self._turn(epoch)
        return caption, int(chance(module.flip, draw)) if 0 < module.flip < 1 else 0

    def at(self, index: int, look: int) -> dict[str, Any]:
        """An image as a look shows it, with all its captions."""
        module, parts = self.module, self.module.load(self.records[index])
        captions = parts.pop("captions")
        draw = self._draw(index, look, captions)[1] if module.windows else None
        frame = module.frame(parts["image"].size, draw)
        if draw is None:
            frame = replace(frame, mirrored=bool(look) or module.flip == 1)
        return self._seen(index, parts | {"captions": tuple(captions)}, frame, "")

    def _turn(self, epoch: int) -> int:
        """Which of the windows of an image an epoch looks through."""
        views = self.module.loading.views
        return epoch % views if self.module.windows and views else epoch

    def _draw(self, index: int, epoch: int, captions: Sequence[str]) -> tuple[int, torch.Generator]:
        """Which caption, and what draws the frame after it.

        Keyed by the image and the epoch: neither workers nor batches nor ranks change what is drawn.
        """
        draw = generator(self.module.loading.seed, "augment", self.records[index].id, epoch)
        return int(torch.randint(max(1, len(captions)), (), generator=draw)), draw

    def _seen(self, index: int, parts: dict[str, Any], frame: Frame, caption: str) -> dict[str, Any]:
        seen = self.module.seen(parts, frame)
        sample = {"image": seen.pop("image"), "mask": seen.pop("mask")}
        return sample | {"caption": caption, "id": self.records[index].id, "extra": seen}

    def __getitems__(self, keys: list) -> list[dict[str, Any]] | Mistake:
        """The samples of a batch; a mistake is handed over as a value, see Loader."""
        try:
            return [self[key] for key in keys]
        except Mistake as mistake:
            return mistake


class Looked(Dataset):
    """Looks at images, by their place in a list of (image, look)."""

    def __init__(self, view: View, which: list[tuple[int, int]]):
        self.view, self.which = view, which

    def __len__(self) -> int:
        return len(self.which)

    def __getitems__(self, places: list[int]) -> list[dict[str, Any]] | Mistake:
        try:
            return [self.view.at(*self.which[place]) for place in places]
        except Mistake as mistake:
            return mistake


class Kept(Dataset):
    """Training images whose frozen outputs come from a cache.

    Args:
        captions: of each image.
        rows: cached outputs by name.
        needs_images: whether the images are read as well.
    """

    def __init__(self, view: View, captions: list[Sequence[str]], rows: dict[str, Rows], needs_images: bool):
        self.view, self.captions, self.rows, self.needs_images = view, captions, rows, needs_images

    def __len__(self) -> int:
        return len(self.view)

    def __getitems__(self, keys: list[tuple[int, int]]) -> Batch | Mistake:
        view = self.view
        drawn = [view.drawn(index, epoch, self.captions[index]) for index, epoch in keys]
        which = [(index, look) for (index, _), (_, look) in zip(keys, drawn, strict=True)]
        cached = {name: rows.gather(which) for name, rows in self.rows.items()}
        if self.needs_images:
            batch = collate(view.__getitems__(keys))
            return batch if isinstance(batch, Mistake) else replace(batch, cached=cached)
        return Batch(None, [said for said, _ in drawn], [view.records[index].id for index, _ in keys], cached=cached)
