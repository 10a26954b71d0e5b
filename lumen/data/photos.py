"""Photos of a folder: found by their names, and divided into splits by a hash of the name."""

import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from lumen.core.text import is_unicode
from lumen.data.index import DatasetIndex, ImageRecord
from lumen.data.photo_captions import METADATA_FILE, TEXT_SUFFIX, PhotoCaptions
from lumen.data.readers import IMAGE_SUFFIXES
from lumen.data.tree import find_files

PHOTO_SUFFIXES = (*IMAGE_SUFFIXES, ".webp", ".bmp", ".tif", ".tiff", ".avif")
OTHER_SUFFIXES = (".heic", ".heif", ".gif", ".jxl", ".jp2", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".psd")
MIN_HELD_OUT = 2  # photos: one whose layout is shown, and another one that it is compared with


@dataclass
class PhotoIndex(DatasetIndex):
    """Photos of a split, which need neither label maps nor captions."""

    def match_records(self) -> Iterator[ImageRecord]:
        """Yield the photos by id, which is their path below the root."""
        captions, photos = self.captions or {}, self.files.get("image", {})
        for id in sorted(photos):
            yield ImageRecord(id, {"image": photos[id]}, captions.get(id, ()))


@dataclass
class PhotoFolder:
    """All photos below a directory, with their captions.

    Args:
        root: Directory of the photos.
        captions_file: File of captions that the user names, if any.

    Attributes:
        photos: Photos by id.
        captions: Captions of the photos.
        problems: Sentences about faults.
        notes: Sentences about everything else that a user should know.
    """

    root: Path
    captions_file: Path | None = None
    photos: dict[str, Path] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __post_init__(self):
        suffixes = (*PHOTO_SUFFIXES, *OTHER_SUFFIXES, TEXT_SUFFIX, METADATA_FILE)
        # A directory that is missing is a problem of the index.
        paths, self.problems = find_files(self.root, suffixes) if self.root.is_dir() else ([], [])
        files = {path.as_posix().removeprefix(f"{self.root.as_posix()}/"): path for path in paths}
        files = dict(sorted(files.items()))
        self._add_photos({name: path for name, path in files.items() if name.lower().endswith(PHOTO_SUFFIXES)})
        if others := [path for name, path in files.items() if name.lower().endswith(OTHER_SUFFIXES)]:
            more = f"{len(others):,} files such as " if len(others) > 1 else ""
            self.notes.append(f"{more}{others[0]} cannot be read; save photos as JPEG or PNG.")
        self.captions = PhotoCaptions(self.root, list(self.photos), self.problems, self.notes)
        self.captions.read(files, self.captions_file)

    def index(self, is_val: bool, share: float) -> PhotoIndex:
        """Return the photos that are held out for validation, or all others.

        Args:
            share: Share of the photos that are held out.
        """
        index = PhotoIndex(self.root, notes=[] if is_val else self.notes, shared_files=self.captions.shared_files)
        if index.root_exists and len(self.photos) < 2:
            number = "one photo" if self.photos else "no photo"
            index.problems.append(
                f"{self.root} holds {number} ({', '.join(PHOTO_SUFFIXES)}), and two are needed, one of them to be held "
                "out; name another folder with data.root=DIR, or add photos."
            )
        index.problems += self.problems
        val = hold_out(self.photos, share)
        index.files["image"] = {id: path for id, path in self.photos.items() if (id in val) == is_val}
        index.captions = self.captions.by_id
        return index

    def _add_photos(self, files: dict[str, Path]) -> None:
        for name, path in files.items():
            id = unicodedata.normalize("NFC", name)  # macOS writes accents apart from their letters
            if not is_unicode(name):
                self.problems.append(f"the name of {path} is not encoded in UTF-8; rename the file.")
            elif id in self.photos:
                self.problems.append(f"{self.photos[id]} and {path} have one name in two encodings; rename either.")
            else:
                self.photos[id] = path


def hold_out(names: Iterable[str], share: float) -> set[str]:
    """Return the names with the smallest hashes: those below a share of all hashes, and of few names at least two.

    A name that is added later moves no other one into or out of the share. It may replace one that fills up to two.
    """
    positions = sorted((int.from_bytes(sha256(name.encode()).digest()[:8]) / 2**64, name) for name in names)
    count = max(sum(position < share for position, _ in positions), min(MIN_HELD_OUT, len(positions) // 2))
    return {name for _, name in positions[: max(0, min(count, len(positions) - 1))]}
