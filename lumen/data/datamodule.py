"""What every data set is: samples by key, batches in a reproducible order, a check and an identity."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities import rank_zero_warn
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, Subset

from lumen.core.errors import BadSample, DatasetMissing
from lumen.core.hashing import hash_json as digest
from lumen.core.interfaces import Batch
from lumen.core.random import generator
from lumen.core.signals import deaf
from lumen.data.cache import Rows, stamps
from lumen.data.dataset import Kept, Looked, View
from lumen.data.index import Record, Survey, inspected
from lumen.data.integrity import Report, report
from lumen.data.loader import Loader, collate
from lumen.data.questions import Question, by_caption, entries, said
from lumen.data.sampler import Stream
from lumen.data.transforms import Frame, chance, crop, stretch


@dataclass(frozen=True)
class Loading:
    """How a run reads its data set."""

    size: int = 512  # pixels: the side of a training image
    batch: int = 4  # images of a micro-batch on one rank
    batches: int = 1  # micro-batches of the whole run, which is one Lightning epoch
    workers: int = 0  # processes that read ahead
    seed: int = 0
    validation: int = 64  # images of the validation split that are looked at, spread evenly over it
    measured: int = 64  # the same of the split that samples are measured on
    questions: str | None = None  # a file of questions about captions
    views: int | None = None  # windows drawn of each image, used in turn; None draws one anew in every epoch


class DataModule(LightningDataModule):
    """A data set on disk; a plug-in says where its files are (`survey`) and how each kind is read (`readers`)."""

    classes: tuple[str, ...]  # names in the order of the class ids
    readers: dict[str, Callable[[Path], Any]]  # kind of file -> its reader; images and maps come back as PIL images
    fit = "stretch"  # how an image becomes a square: "stretch" or "crop"
    flip = 0.0  # how often a training image is mirrored
    windows = False  # whether a training image is seen through a window that is drawn
    held_out = "val"  # the split that samples are measured on: few data sets publish the labels of another
    kept: Kept | None = None  # what is known of the training images from a cache

    def __init__(self, root: str, loading: Loading):
        super().__init__()
        self.root, self.loading = Path(root).expanduser(), loading
        self.name = type(self).__module__.rpartition(".")[2]
        self._records: dict[str, list[Record]] = {}
        self.asked = by_caption(entries(Path(loading.questions))) if loading.questions else {}

    def __getstate__(self) -> dict[str, Any]:
        """A worker process needs the readers, not the trainer."""
        return self.__dict__ | {"trainer": None}

    @staticmethod
    def fake(root: str | Path) -> None:
        """Writes a tiny data set in the official format; nothing where the images are rendered."""

    def survey(self, split: str) -> Survey:
        """What the folders of a split ("train" or "val") hold, no file opened."""
        raise NotImplementedError(f"{type(self).__name__} must write survey()")

    def records(self, split: str) -> list[Record]:
        """The images of a split, by id.

        Raises:
            DatasetMissing: a folder, a file or a caption is missing; the message names the first few.
        """
        if split not in self._records:
            survey = self.survey(split)
            records = survey.records()
            if survey.problems:
                count, first = len(survey.problems), " ".join(survey.problems[:3])
                more = f" {count} problems in all: `{self.command}` names each." if count > 3 else ""
                raise DatasetMissing(f"{self.name}, {split} split: {first}{more}")
            for note in survey.notes:
                rank_zero_warn(f"{self.name}, {split} split: {note}")
            self._records[split] = records
        return self._records[split]

    def load(self, record: Record) -> dict[str, Any]:
        """All that is known of an image, whole and unaugmented: images and maps (PIL, one size), and facts.

        Raises:
            BadSample: a file that cannot be used.
        """
        parts, problems = inspected(record, self.readers)
        if problems:
            raise BadSample(f"{problems[0]} `{self.command}` names every such file.")
        return parts

    def frame(self, given: tuple[int, int], draw: torch.Generator | None) -> Frame:
        """What part of an image of size (width, height) is looked at; drawn anew where `draw` is given."""
        frame = (stretch if self.fit == "stretch" else crop)(given, self.loading.size)
        return Frame(given, frame.resized, frame.window, chance(self.flip, draw))

    def seen(self, parts: dict[str, Any], frame: Frame) -> dict[str, Any]:
        """The frame's part of every image and map, as tensors: image (3, H, W) uint8, maps (H, W)."""
        return {k: _tensor(frame.cut(v)) if isinstance(v, Image.Image) else v for k, v in parts.items()}

    def prompt(self, captions: Sequence[str]) -> str:
        """The caption that an image is painted with: the first that anything is asked about, else the first."""
        return next((caption for caption in captions if said(caption) in self.asked), captions[0] if captions else "")

    def questions(self, batch: Batch) -> list[tuple[Question, ...]]:
        """What is asked about the caption of each image of a batch; () where nothing is."""
        return [self.asked.get(said(caption), ()) for caption in batch.caption]

    def asks(self) -> int:
        """Of how many measured images anything is asked."""
        return sum(said(self.prompt(record.captions)) in self.asked for record in self.measured())

    def measured(self) -> list[Record]:
        """The images that samples are measured on."""
        records = self.records(self.held_out)
        return [records[position] for position in _evenly(len(records), self.loading.measured)]

    def dataset(self, split: str) -> View:
        return View(self, self.records(split))

    def looks(self) -> int | None:
        """How many ways there are to look at a training image; None where each epoch has its own."""
        return self.loading.views if self.windows else 2 if 0 < self.flip < 1 else 1

    def recipe(self) -> dict[str, Any]:
        """All that a look at a training image depends on besides the content of its files."""
        recipe = {"data": self.name, "size": self.loading.size, "fit": self.fit, "pillow": version("pillow")}
        if not self.windows:
            return recipe
        # A window is drawn by the image's id: under another name the same file is seen through another one.
        ids = digest([record.id for record in self.records("train")])
        return recipe | {"seed": self.loading.seed, "flip": self.flip, "views": self.loading.views, "ids": ids}

    def contents(self, records: list[Record], memo: Path) -> list[str]:
        """Of each image what its files hold, hashed; `memo` is where the hashes are kept."""
        return stamps([record.files.values() for record in records], memo)

    def looked(self, which: list[tuple[int, int]], batch: int) -> Loader:
        """Looks at training images, as (image, look), in this order: each with all its captions in `extra`."""
        return self._loader(Looked(self.dataset("train"), which), batch=batch)

    def from_cache(self, rows: dict[str, Rows], needs_images: bool) -> Kept:
        """The training images as a cache knows them."""
        view, (first, *_) = self.dataset("train"), rows.values()
        told = [said for facts in first.facts for said in facts["captions"]]
        return Kept(view, [r.captions or said for r, said in zip(view.records, told, strict=True)], rows, needs_images)

    def train_dataloader(self) -> Loader:
        """The training images in the run's order, from where the trainer's own count says it stands."""
        how, data = self.loading, self.kept or self.dataset("train")
        rank, world = self._share()
        order = Stream(len(data), how.batch, how.batches, how.seed, rank, world)
        if self.trainer:
            order.start = self.trainer.fit_loop.epoch_loop.batch_progress.total.processed
        return self._loader(data, sampler=order)

    def val_dataloader(self) -> Loader:
        return self._spread("val", self.loading.validation)

    def test_dataloader(self) -> Loader:
        return self._spread(self.held_out, self.loading.measured)

    def sample_dataloader(self, images: int) -> Loader:
        """This rank's share of some random training images, unaugmented: what a layout basis is fitted on."""
        some = self.sample(images)
        return self._loader(self._mine(View(self, some), range(len(some))))

    def sample(self, images: int) -> list[Record]:
        """Which ones they are, of all ranks."""
        records = self.records("train")
        order = torch.randperm(len(records), generator=generator(self.loading.seed, "sample"))
        return [records[i] for i in order[:images]]

    def check(self) -> Report:
        """Opens every file of both splits and tells all that is wrong; changes nothing."""
        return report(self)

    def fingerprint(self) -> str:
        """16 hex digits that change with the images' ids, file sizes and captions: cheap, no file is opened."""
        state = hashlib.sha256()
        for split in ("train", "val"):
            for record in self.records(split):
                sizes = sorted((kind, path.stat().st_size) for kind, path in record.files.items())
                state.update(repr((split, record.id, sizes, record.captions)).encode())
        return state.hexdigest()[:16]

    @property
    def command(self) -> str:
        """What a user types to have the data set checked."""
        return f"lumen data check {self.name} root={self.root}"

    def _share(self) -> tuple[int, int]:
        """This process's rank, and how many there are."""
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def other(self, batch: Batch) -> Batch:
        """For each image of a batch of the test loader, the next of all that are measured, whatever the batches."""
        data = self.dataset(self.held_out)
        places = _evenly(len(data), self.loading.measured)
        place = {data.records[position].id: i for i, position in enumerate(places)}
        return collate([data[places[(place[i] + 1) % len(places)]] for i in batch.id])

    def _spread(self, split: str, count: int) -> Loader:
        """This rank's share of `count` images that lie evenly in a split."""
        data = self.dataset(split)
        return self._loader(self._mine(data, _evenly(len(data), count)))

    def _mine(self, data: View, positions: Sequence[int]) -> Subset:
        """Every world-th position, not padded: an image counted twice would change a metric."""
        rank, world = self._share()
        return Subset(data, positions[rank::world])

    def _loader(self, data: Dataset, sampler: Stream | None = None, batch: int | None = None) -> Loader:
        how = self.loading
        loader = Loader(
            data,
            batch_size=batch or how.batch,
            sampler=sampler,
            num_workers=how.workers,
            persistent_workers=how.workers > 0,
            pin_memory=torch.cuda.is_available(),
            collate_fn=collate,
            worker_init_fn=deaf,
        )
        loader.moves = self.trainer is None
        return loader


def _evenly(images: int, count: int) -> list[int]:
    count = min(count, images)
    return [i * images // count for i in range(count)]


def _tensor(plane: Image.Image) -> Tensor:
    """(3, H, W) of an RGB image, (H, W) of a map, in the type of its pixels."""
    pixels = torch.from_numpy(np.array(plane))
    return pixels.permute(2, 0, 1).contiguous() if pixels.ndim == 3 else pixels
