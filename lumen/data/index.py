"""Index of a data set: the files of each image by kind, matched by name before any image is opened."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from lumen.core.errors import BadSample
from lumen.data.readers import read_captions


@dataclass(frozen=True)
class ImageRecord:
    """Image of a split.

    Attributes:
        id: Permanent name within the data set.
        files: Files by kind: "image", "mask" and further annotations.
        captions: Captions that are not empty.
    """

    id: str
    files: dict[str, Path] = field(default_factory=dict)
    captions: tuple[str, ...] = ()


@dataclass
class DatasetIndex:
    """Files and captions of a split. A data set fills it by `add_files` and `add_captions`.

    Attributes:
        root: Directory of the data set.
        problems: Sentences about faults that make the split unusable.
        notes: Sentences about everything else that a user should know.
        files: Files by kind and stem, the part of the name that all files of an image share.
        captions: Captions by stem; None where the split has no captions file.
        shared_files: Files that belong to no single image.
    """

    root: Path
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    files: dict[str, dict[str, Path]] = field(default_factory=dict)
    captions: dict[str, list[str]] | None = None
    shared_files: list[Path] = field(default_factory=list)

    def __post_init__(self):
        self.root_exists = self.root.is_dir()
        if not self.root_exists:
            self.problems.append(
                f"the directory {self.root} does not exist; name the directory of the data set with root=DIR."
            )

    def add_files(self, kind: str, suffixes: tuple[str, ...], *directories: str, optional: bool = False) -> None:
        """Add the files of a kind from the first of the directories that exists.

        Args:
            kind: Kind of file, such as "mask".
            suffixes: Ends of the file names; the rest of a name is its stem.
            directories: Directories to search, relative to the root.
            optional: Whether the data set is complete without these files.
        """
        candidates = [self.root / directory for directory in directories]
        directory = next((candidate for candidate in candidates if candidate.is_dir()), None)
        if directory:
            self.files[kind] = _files_by_stem(directory, suffixes)
        if optional or not self.root_exists:
            return
        if directory is None:
            names = " or ".join(map(str, candidates))
            self.problems.append(f"there is no directory {names} with the {kind} files; unpack that archive there.")
        elif not self.files[kind]:
            self.problems.append(f"{directory} has no *{suffixes[0]}; unpack the archive of {kind} files there.")

    def add_captions(self, file: str | None, default: str) -> None:
        """Read captions from a file of the user, or from the official file if it exists.

        Args:
            file: File that the user named, if any.
            default: Official file, relative to the root.
        """
        path = Path(file) if file else self.root / default
        if not path.is_file():
            if file:
                self.problems.append(f"there is no captions file {path}; correct captions=FILE.")
            elif self.root_exists:
                self.notes.append(f"{path} does not exist, so the prompts are empty; captions=FILE names another.")
            return
        self.shared_files.append(path)
        try:
            self.captions = read_captions(path)
        except BadSample as error:
            self.problems.append(str(error))

    def match_records(self) -> list[ImageRecord]:
        """Return the images that have a label map, by id, and add all others to the problems."""
        images, masks = self.files.get("image", {}), self.files.get("mask", {})
        self._add_unmatched(images, masks)
        records = []
        for stem in sorted(images.keys() & masks.keys()):
            files = {kind: paths[stem] for kind, paths in self.files.items() if stem in paths}
            records.append(ImageRecord(stem, files, self._select_captions(stem)))
        return records

    def _add_unmatched(self, images: dict[str, Path], masks: dict[str, Path]) -> None:
        """Add a problem for each image without a label map, and the reverse."""
        # A directory that is missing as a whole is a problem already, and one is enough.
        if not (images and masks):
            return
        for stem in sorted(images.keys() - masks.keys()):
            self.problems.append(f"{images[stem]} has no label map; restore the map, or remove the image.")
        for stem in sorted(masks.keys() - images.keys()):
            self.problems.append(f"{masks[stem]} has no image; restore the image, or remove the map.")

    def _select_captions(self, stem: str) -> tuple[str, ...]:
        """Return the captions of an image that are not empty, and add problems and notes about the others."""
        if self.captions is None:
            return ()
        path, captions = self.shared_files[0], self.captions.get(stem, [])
        usable = tuple(caption for caption in captions if caption)
        if not captions:
            self.problems.append(f"{path} has no caption for {stem}; add one.")
        elif not usable:
            self.problems.append(f"{path} has an empty caption for {stem}; write one.")
        elif len(usable) < len(captions):
            self.notes.append(f"{path}: an empty caption of {stem} is ignored.")
        return usable


def read_record(record: ImageRecord, readers: dict[str, Callable[[Path], Any]]) -> tuple[dict[str, Any], list[str]]:
    """Read the files of an image.

    Args:
        record: Image to read.
        readers: Reader of each kind of file.

    Returns:
        The contents by kind, captions included, and a sentence for each file that cannot be used.
    """
    parts: dict[str, Any] = {"captions": record.captions}
    problems = []
    for kind, path in record.files.items():
        try:
            parts[kind] = readers[kind](path)
        except BadSample as error:
            problems.append(str(error))
    for kind, part in parts.items():
        if isinstance(part, Image.Image) and "image" in parts and part.size != parts["image"].size:
            sizes = ["x".join(map(str, size)) for size in (part.size, parts["image"].size)]
            problems.append(
                f"{record.files[kind]} has {sizes[0]} pixels and its image {record.files['image']} has {sizes[1]}; "
                "restore the two from one archive."
            )
    return parts, problems


def _files_by_stem(directory: Path, suffixes: tuple[str, ...]) -> dict[str, Path]:
    """Return the files below a directory by their name without its suffix. Hidden files do not belong to a data set."""
    files = {}
    for path in sorted(directory.rglob("*")):
        suffix = next((suffix for suffix in suffixes if path.name.lower().endswith(suffix.lower())), None)
        if suffix and not path.name.startswith("."):
            files[path.name[: -len(suffix)]] = path
    return files
