"""File of captions that a model writes: continued after an interruption, with a record of who wrote which."""

import posixpath
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lumen.core.errors import BadConfig, BadSample
from lumen.core.files import write_json
from lumen.core.progress import Phase
from lumen.core.readers import read_json
from lumen.data.photo_captions import ids_by_name

if TYPE_CHECKING:
    from PIL import Image

SAVE_EVERY = 64  # captions, which a killed process may lose
MAX_SIDE = 1024  # pixels that a captioner is shown; every kind makes photos smaller than that
NUM_READERS = 4  # threads; decoding releases the GIL
REMEDY = "restore it, or name another file with out=FILE"


@dataclass
class CaptionFile:
    """Captions by image, and beside them NAME.model.json, which says what each model wrote.

    Args:
        path: JSON file of {image: caption}.
        author: Model, prompt and further settings by which captions are written.
        images: Names of all images of the data set; a name that several could mean is that of none.

    Attributes:
        captions: Content of the file.
        authors: Models and settings that wrote captions.
        written: Number of the author of each image.
        replaces: Whether captions of other authors have been replaced.
    """

    path: Path
    author: dict[str, Any]
    images: Sequence[str] = ()
    captions: dict[str, Any] = field(default_factory=dict)
    authors: list[dict[str, Any]] = field(default_factory=list)
    written: dict[str, int] = field(default_factory=dict)
    replaces: bool = False

    def __post_init__(self):
        self.owners = ids_by_name(self.images)
        self.captions = read_json(self.path, REMEDY) if self.path.exists() else {}
        if isinstance(self.captions.get("annotations"), list):
            raise BadConfig(f"{self.path} has COCO's format, which is not written; name another file with out=FILE.")
        if self.record.exists():
            content = read_json(self.record, REMEDY, {"authors": list, "images": dict})
            self.authors, self.written = content["authors"], content["images"]
        if self.author not in self.authors:
            self.authors.append(self.author)

    @property
    def record(self) -> Path:
        """File that says who wrote which caption."""
        return self.path.with_name(f"{self.path.stem}.model.json")

    def needs(self, image: str, overwrite: bool) -> bool:
        """Return whether an image is to be captioned: it has no caption here, or one of another author is replaced."""
        if self._find(image) is None:
            return True
        is_own = image in self.written and self.authors[self.written[image]] == self.author
        return overwrite and not is_own

    def add(self, image: str, caption: str) -> None:
        """Set the caption of an image."""
        self.replaces |= self.captions.pop(self._find(image), None) is not None
        self.captions[image], self.written[image] = caption, self.authors.index(self.author)

    def save(self) -> None:
        """Write captions and record, each as a whole.

        After a kill between the two, the same command captions those images again: the record comes first, unless it
        would credit a caption that is being replaced to its next author.
        """
        files = [(self.record, {"authors": self.authors, "images": self.written}), (self.path, self.captions)]
        for path, content in reversed(files) if self.replaces else files:
            write_json(path, content)

    def _find(self, image: str) -> str | None:
        """Return the name under which the file has a caption of an image."""
        name = posixpath.basename(image)
        names = (image, posixpath.splitext(image)[0], name, posixpath.splitext(name)[0])
        return next((n for n in names if n in self.captions and self.owners.get(n, image) == image), None)


def write_captions(
    images: dict[str, Callable[[], "Image.Image"]],
    file: CaptionFile,
    caption: Callable[[list["Image.Image"]], list[str]],
    batch_size: int,
) -> list[str]:
    """Caption images in batches, while threads read the next ones, and save the captions every now and then.

    Args:
        images: Reader of each image by name.
        caption: Function of images that returns their captions.

    Returns:
        A sentence about each image that cannot be read.
    """
    problems, unsaved = [], 0
    with Phase("captioning", len(images), "images") as phase:
        try:
            for names, batch, failures in _read_ahead(images, batch_size):
                problems += failures
                for name, text in zip(names, caption(batch) if batch else [], strict=True):
                    file.add(name, text)
                unsaved += len(names)
                if unsaved >= SAVE_EVERY:
                    file.save()
                    unsaved = 0
                phase.advance(len(names) + len(failures))
        finally:
            if unsaved:
                file.save()
    return problems


def _read_ahead(
    images: dict[str, Callable[[], "Image.Image"]], batch_size: int
) -> Iterator[tuple[list[str], list["Image.Image"], list[str]]]:
    """Yield the names and images of each batch, and sentences about those that cannot be read, two batches ahead."""
    batches = iter([list(images)[start : start + batch_size] for start in range(0, len(images), batch_size)])
    with ThreadPoolExecutor(NUM_READERS) as pool:
        queue = deque(_submit(pool, images, names) for names in islice(batches, 2))
        while queue:
            names, futures = queue.popleft()
            queue.extend(_submit(pool, images, following) for following in islice(batches, 1))
            read, pictures, failures = [], [], []
            for name, future in zip(names, futures, strict=True):
                try:
                    pictures.append(future.result())
                    read.append(name)
                except BadSample as error:
                    failures.append(str(error))
            yield read, pictures, failures


def _submit(
    pool: ThreadPoolExecutor, images: dict[str, Callable[[], "Image.Image"]], names: Sequence[str]
) -> tuple[Sequence[str], list[Future]]:
    return names, [pool.submit(_read_small, images[name]) for name in names]


def _read_small(read: Callable[[], "Image.Image"]) -> "Image.Image":
    image = read()
    image.thumbnail((MAX_SIDE, MAX_SIDE))
    return image
