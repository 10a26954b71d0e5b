"""Data source: the files, captions and questions of a data set, without torch until an image is transformed."""

import hashlib
import shlex
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from lumen.core.errors import BadConfig, BadSample, DatasetMissing, Note, UnknownName, suggestion
from lumen.core.hashing import hash_json
from lumen.core.paths import user_path
from lumen.core.text import escape_line
from lumen.data.cache import hash_files
from lumen.data.copies import Files, copy_files
from lumen.data.image_stream import ImageStream
from lumen.data.index import DatasetIndex, ImageRecord, read_record
from lumen.data.integrity import IntegrityReport, check_dataset
from lumen.data.loader_config import LoaderConfig
from lumen.data.problems import summarize
from lumen.data.questions import Question, group_by_caption, normalize_caption, read_entries
from lumen.data.records import ImageRecords
from lumen.data.transforms import FITS, Augmentation, CropTransform, Fit, bernoulli, sample_window, to_tensor

if TYPE_CHECKING:
    import torch

    from lumen.core.interfaces import Batch


class DataSource:
    """Data set on disk: which files there are, how each kind is read, and how an image becomes a square.

    Subclasses set `classes` and `readers`, and implement `index_split` and `fake`. `DataModule` makes batches.

    Args:
        root: Directory of the data set.
        loader_config: Settings of the run.

    Attributes:
        classes: Class names in the order of their ids.
        readers: Reader of each kind of file; images and maps are returned as PIL images.
        streaming: Whether training images have no list, and are read from front to back. Such a data set also has a
            method `decode` of a record and its `EncodedImage`, which returns what `read` does.
        stream: Images of a data set that is streamed.
        has_labels: Whether images have label maps. Without them `classes` is empty, and what needs labels is left out.
        needs_captions: Whether an image without a caption is a fault, once there is a file of captions.
        fit: How an image becomes a square, unless training crops it.
        flip: Probability of a horizontal flip in training.
        random_crop: Whether training crops images at random positions.
        full: Whether evaluation uses whole images where training crops them.
        published_images: Images of each split as its authors publish them; empty where nobody has counted them.
        licence: Sentence about the licence of the data, for the card of a model that learnt from it.
        eval_split: Split that generated images are scored on; few data sets publish the labels of a test split.
        box_classes: Classes of objects with 3D boxes, which batches have as `extra["boxes"]`.
        domain_phrases: Words that move a caption into a domain, by the name of the domain.
        name: Name of the data set in the config.
        questions_by_caption: Questions about each caption, from the file of the config.
    """

    classes: tuple[str, ...]
    readers: dict[str, Callable[[Path], Any]]
    streaming = False
    stream: ImageStream
    has_labels = True
    needs_captions = True
    fit: Fit = "stretch"
    flip = 0.0
    random_crop = False
    full = False
    published_images: dict[str, int] = {}
    licence = ""
    eval_split = "val"
    box_classes: tuple[str, ...] = ()
    domain_phrases: dict[str, str] = {}

    def __init__(self, root: str, loader_config: LoaderConfig):
        self.root, self.loader_config = user_path(root), loader_config
        self.name = type(self).__module__.rpartition(".")[2]
        file = loader_config.questions
        self.questions_by_caption = group_by_caption(read_entries(user_path(file))) if file else {}
        self._records: dict[str, Sequence[ImageRecord]] = {}

    @staticmethod
    def fake(root: str | Path) -> None:
        """Write a tiny data set in the official format, or nothing where images are rendered."""

    def index_split(self, split: str) -> DatasetIndex:
        """Return the files of a split ("train" or "val"). No image is opened."""
        raise NotImplementedError(f"{type(self).__name__} must implement index_split()")

    @property
    def check_command(self) -> str:
        """Command that names every fault of the data set."""
        return f"lumen data check {self.name} {shlex.quote(f'root={self.root}')} --all"

    # ---- images

    def records(self, split: str) -> Sequence[ImageRecord]:
        """Return the images of a split, by id.

        Raises:
            DatasetMissing: A directory, a file or a caption is missing; the message names the first three.
        """
        if split not in self._records:
            index = self.index_split(split)
            index.needs_captions = self.needs_captions
            records = ImageRecords(index.match_records())
            if index.problems:
                count, first = len(index.problems), " ".join(summarize(index.problems)[:3])
                more = f" {count:,} problems in all: `{self.check_command}` names each." if count > 3 else ""
                raise DatasetMissing(f"{self.name}, {split} split: {first}{more}")
            for note in summarize(index.notes):
                _warn_on_first_rank(f"{self.name}, {split} split: {note}")
            self._records[split] = records
        return self._records[split]

    def train_records(self) -> Sequence[ImageRecord]:
        """Return the images that a run learns from.

        Raises:
            BadConfig: There are fewer than the run asks for.
        """
        records, count = self.records("train"), self.loader_config.train_images
        if count is None:
            return records
        if count > len(records):
            raise BadConfig(
                f"task.images={count:,} is more than the {len(records):,} training images of {self.name}; name "
                "fewer, or none to take all."
            )
        return [records[position] for position in evenly_spaced(len(records), count)]

    def eval_records(self) -> list[ImageRecord]:
        """Return the images that generated images are scored on."""
        records = self.records(self.eval_split)
        return [records[position] for position in evenly_spaced(len(records), self.loader_config.eval_images)]

    def read(self, record: ImageRecord) -> dict[str, Any]:
        """Return everything known of an image before it is transformed: PIL images of one size, and annotations.

        Raises:
            BadSample: A file cannot be used.
        """
        parts, problems = read_record(record, self.readers)
        if problems:
            raise BadSample(f"{escape_line(problems[0])} `{self.check_command}` names every such file.")
        return parts | {"domain": self.domain(record)}

    def use_fit(self, fit: Fit | None, full: bool = False) -> None:
        """Have whole images made square in place of random crops, which "crop" and None stand for.

        Args:
            full: Whether evaluation uses whole images beside random crops.

        Raises:
            BadConfig: There are no random crops beside which evaluation could use whole images.
        """
        if fit in (None, "crop"):
            self.full = full
        elif full:
            raise BadConfig(f"data.full=true is for random crops, and data.fit={fit} crops nothing; leave either out.")
        else:
            self.fit, self.random_crop = fit, False

    def resize(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return the size of an image that random crops are taken from."""
        return FITS["crop"](size, self.loader_config.size).resized

    def transform_for(self, size: tuple[int, int], generator: "torch.Generator | None") -> CropTransform:
        """Return the transform of an image of size (width, height), a random one if there is a generator.

        Of random crops, evaluation takes the central one, or the whole image.
        """
        side = self.loader_config.size
        if not self.random_crop:
            return replace(FITS[self.fit](size, side), flipped=bernoulli(self.flip, generator))
        resized = self.resize(size)
        window = sample_window(resized, resized if self.full and generator is None else (side, side), generator)
        return CropTransform(size, resized, window, bernoulli(self.flip, generator))

    def to_tensors(self, parts: dict[str, Any], transform: CropTransform) -> dict[str, Any]:
        """Return transformed images and maps as tensors: image (3, H, W) uint8, maps (H, W); keep all other parts."""
        return {
            kind: to_tensor(transform.apply(part)) if isinstance(part, Image.Image) else part
            for kind, part in parts.items()
        }

    def transform(
        self, parts: dict[str, Any], generator: "torch.Generator | None" = None, flipped: bool | None = None
    ) -> dict[str, Any]:
        """Return the parts of an image as training or evaluation uses them.

        Args:
            parts: Contents of an image by kind.
            generator: Source of random choices; None for the view that evaluation uses.
            flipped: Whether to flip, in place of the transform's own choice.
        """
        transform = self.transform_for(parts["image"].size, generator)
        return self.to_tensors(parts, transform if flipped is None else replace(transform, flipped=flipped))

    # ---- captions

    def select_caption(self, captions: Sequence[str]) -> str:
        """Return the caption to generate an image from: the first with questions, else the first."""
        with_questions = (caption for caption in captions if normalize_caption(caption) in self.questions_by_caption)
        return next(with_questions, captions[0] if captions else "")

    @property
    def domains(self) -> tuple[str, ...]:
        """Domains into which captions can be moved, such as other weather."""
        return tuple(self.domain_phrases)

    def domain(self, record: ImageRecord) -> str:
        """Return the domain that an image is from, by which evaluations are divided."""
        return self.name

    def caption_for(self, record: ImageRecord, domain: str) -> str:
        """Return the caption of an image, changed so that it describes the same content in another domain.

        Raises:
            UnknownName: The data set does not know the domain.
        """
        phrase, caption = self.domain_phrases[self.require_domain(domain)], self.select_caption(record.captions)
        return f"{caption}, {phrase}" if caption else phrase

    def require_domain(self, domain: str) -> str:
        """Return the name of a domain into which captions can be moved.

        Raises:
            UnknownName: There is no such domain.
        """
        if domain not in self.domains:
            hint = suggestion(domain, self.domains)
            raise UnknownName(
                f"the data set {self.name} has no captions for a domain '{domain}'; {hint} Name such a one, or none."
            )
        return domain

    def questions(self, batch: "Batch") -> list[tuple[Question, ...]]:
        """Return the questions about the caption of each image of a batch."""
        return [self.questions_by_caption.get(normalize_caption(caption), ()) for caption in batch.caption]

    def num_questioned(self) -> int:
        """Return the number of evaluation images whose caption has questions."""
        captions = (self.select_caption(record.captions) for record in self.eval_records())
        return sum(normalize_caption(caption) in self.questions_by_caption for caption in captions)

    def num_annotated(self, kind: str, records: Sequence[ImageRecord]) -> int:
        """Return the number of these images with a kind of annotation, such as "disparity"."""
        return sum(kind in record.files for record in records)

    def copy_files(self, record: ImageRecord, name: str, root: Path) -> Files:
        """Return path and content of each file of a copy of an image under another name, in the official layout."""
        return copy_files(record, name, root)

    # ---- identity

    @property
    def augmentation(self) -> Augmentation:
        """Random choices of training."""
        return Augmentation(self.flip, self.random_crop, self.loader_config.views, self.loader_config.seed)

    def num_views(self) -> int | None:
        """Return the number of different views of a training image; None if every epoch has its own."""
        return self.augmentation.num_views()

    def cache_key(self) -> dict[str, Any]:
        """Return everything that a view of a training image depends on besides the content of its files."""
        config = self.loader_config
        key = {"data": self.name, "size": config.size, "fit": self.fit, "pillow": version("pillow")}
        if not self.random_crop:
            return key
        # A random crop is keyed by the image's id: under another name, the same file is cropped elsewhere.
        ids = hash_json([record.id for record in self.records("train")])
        return key | {"seed": config.seed, "flip": self.flip, "views": config.views, "ids": ids}

    def hash_contents(self, records: Sequence[ImageRecord], memo: Path) -> list[str]:
        """Return a hash of the files of each image; see `lumen.data.cache.hash_files`."""
        return hash_files([record.files.values() for record in records], memo)

    def fingerprint(self) -> str:
        """Return 16 hex digits that change with ids, file sizes and captions. No file is opened."""
        state = hashlib.sha256()
        for split in ("train", "val"):
            for record in self.records(split):
                sizes = sorted((kind, path.stat().st_size) for kind, path in record.files.items())
                state.update(repr((split, record.id, sizes, record.captions)).encode())
        return state.hexdigest()[:16]

    def check(self) -> IntegrityReport:
        """Open every file of both splits, and report all faults."""
        indices = {split: self.index_split(split) for split in ("train", "val")}
        return check_dataset(self.name, self.root, indices, self.readers)


def evenly_spaced(length: int, count: int) -> list[int]:
    """Return at most `count` positions that are spread evenly over a sequence."""
    count = min(count, length)
    return [i * length // count for i in range(count)]


def _warn_on_first_rank(message: str) -> None:
    """Warn, but not on every rank."""
    from lightning.pytorch.utilities import rank_zero_warn

    rank_zero_warn(message, category=Note)
