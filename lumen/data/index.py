"""Index of a data set: the files of each image by kind, matched by name before any image is opened."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from lumen.core.errors import BadSample
from lumen.core.paths import user_path
from lumen.data.captions import as_captions, read_captions
from lumen.data.tree import files_by_stem


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
        captions: Captions by stem or by name of the image file, as they stand in the captions file; None without one.
        shared_files: Files that belong to no single image.
        needs_captions: Whether an image without a caption is a fault, once there is a file of captions.
    """

    root: Path
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    files: dict[str, dict[str, Path]] = field(default_factory=dict)
    captions: dict[str, Any] | None = None
    shared_files: list[Path] = field(default_factory=list)
    needs_captions: bool = True

    def __post_init__(self):
        self.root_exists = self.root.is_dir()
        if not self.root_exists:
            self.problems.append(
                f"the directory {self.root} does not exist; name the directory of the data set with data.root=DIR."
            )

    def add_files(
        self,
        kind: str,
        suffixes: tuple[str, ...],
        *directories: str,
        optional: bool = False,
        exclude: tuple[str, ...] = (),
    ) -> None:
        """Add the files of a kind from the first of the directories that has any.

        Args:
            kind: Kind of file, such as "mask".
            suffixes: Ends of the file names; the rest of a name is its stem.
            directories: Directories to search, relative to the root.
            optional: Whether the data set is complete without these files.
            exclude: Ends of the names of files that another program wrote beside them.
        """
        candidates = [self.root / directory for directory in directories]
        trees = {path: files_by_stem(path, suffixes, exclude) for path in candidates if path.is_dir()}
        self.problems += [problem for _, problems in trees.values() for problem in problems]
        filled = {path: files for path, (files, _) in trees.items() if files}
        if filled:
            directory, self.files[kind] = next(iter(filled.items()))
            for other, files in filled.items():
                if files.keys() != self.files[kind].keys():
                    self.problems.append(f"{directory} and {other} hold other {kind} files; remove or rename either.")
        elif trees:
            self.files[kind] = {}
        if filled or optional or not self.root_exists:
            return
        if trees:
            names = " or ".join(f"*{suffix}" for suffix in suffixes)
            but = f" besides {' and '.join(f'*{suffix}' for suffix in exclude)}" if exclude else ""
            self.problems.append(f"{next(iter(trees))} has no {names}{but}; unpack the archive of {kind} files there.")
        else:
            names = " or ".join(map(str, candidates))
            self.problems.append(f"there is no directory {names} with the {kind} files; unpack that archive there.")

    def add_part(self, part: "DatasetIndex") -> None:
        """Add the files and problems of a part of the split that lies in directories of its own.

        A part without images or without label maps is a problem already, so its other files are left out.
        """
        self.problems += [problem for problem in part.problems if problem not in self.problems]
        if not (part.files.get("image") and part.files.get("mask")):
            return
        for kind, files in part.files.items():
            known = self.files.setdefault(kind, {})
            for stem in sorted(known.keys() & files.keys()):
                both = f"{known[stem]} and {files[stem]}"
                self.problems.append(f"{both} are both called {stem}; remove or rename either.")
            known |= files

    def add_captions(self, file: str | None, default: str) -> None:
        """Read captions from a file of the user, or from the official file if it exists.

        Args:
            file: File that the user named, if any.
            default: Official file, relative to the root.
        """
        path = user_path(file) if file else self.root / default
        if not path.exists():
            if file:
                self.problems.append(f"there is no captions file {path}; correct data.captions=FILE.")
            elif self.root_exists:
                self.notes.append(f"{path} does not exist, so the prompts are empty; data.captions=FILE names another.")
            return
        if path.is_file():
            self.shared_files.append(path)
        try:
            self.captions = read_captions(path)
        except BadSample as error:
            self.problems.append(str(error))

    def match_records(self) -> Iterator[ImageRecord]:
        """Yield the images that have a label map, by id, and add all others to the problems."""
        images, masks = self.files.get("image", {}), self.files.get("mask", {})
        self._add_unmatched(images, masks)
        stems = sorted(images.keys() & masks.keys())
        if not (stems or self.problems):
            self.problems.append(f"{self.root} has no image with a label map; unpack the archives there.")
        captions = self._match_captions(stems, images)
        for stem in stems:
            files = {kind: paths[stem] for kind, paths in self.files.items() if stem in paths}
            yield ImageRecord(stem, files, next(captions, ()))

    def _add_unmatched(self, images: dict[str, Path], masks: dict[str, Path]) -> None:
        """Add a problem for each image without a label map, and the reverse."""
        # A directory that is missing as a whole is a problem already, and one is enough.
        if not (images and masks):
            return
        for stem in sorted(images.keys() - masks.keys()):
            self.problems.append(f"{images[stem]} has no label map; restore the map, or remove the image.")
        for stem in sorted(masks.keys() - images.keys()):
            self.problems.append(f"{masks[stem]} has no image; restore the image, or remove the map.")

    def _match_captions(self, stems: list[str], images: dict[str, Path]) -> Iterator[tuple[str, ...]]:
        """Yield the captions of each image, and add problems and notes about those that cannot be used.

        Nothing is yielded without a file of captions, or without captions of any of the images.
        """
        if self.captions is None:
            return
        path = self.shared_files[0]
        if stems and self.needs_captions and not any(self._caption_key(stem, images[stem]) for stem in stems):
            keys = f"has keys such as {next(iter(self.captions))!r}" if self.captions else "is empty"
            self.problems.append(
                f"{path} {keys} and has no caption for any of the {len(stems):,} images, which are called such as "
                f"{stems[0]!r}; write captions under the names of images."
            )
            return
        for stem in stems:
            key = self._caption_key(stem, images[stem])
            yield self._usable_captions(path, stem, [] if key is None else self.captions[key])

    def _caption_key(self, stem: str, image: Path) -> str | None:
        """Return the key that the captions of an image stand under; None without one."""
        return next((key for key in (stem, image.name, image.stem) if key in self.captions), None)

    def _usable_captions(self, path: Path, stem: str, value: Any) -> tuple[str, ...]:
        """Return the captions of an image that are not empty, and add problems and notes about the others."""
        try:
            captions = as_captions(value)
        except ValueError as error:
            self.problems.append(f"{path} has {error} as the caption of {stem}; write text, or a list of texts.")
            return ()
        usable = tuple(caption for caption in captions if caption)
        if not usable and not self.needs_captions:
            return ()
        if not captions:
            self.problems.append(f"{path} has no caption for {stem}; add one.")
        elif not usable:
            self.problems.append(f"{path} has an empty caption for {stem}; write one.")
        elif len(usable) < len(captions):
            self.notes.append(f"{path} has an empty caption of {stem} among others; it is ignored.")
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
