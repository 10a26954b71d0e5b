"""Finds the files of a data set and puts together those of one image, before any is opened."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from lumen.core.errors import BadSample
from lumen.data.readers import captions


@dataclass(frozen=True)
class Record:
    """One image of a split: its files by what they hold, and what is said of it."""

    id: str
    files: dict[str, Path] = field(default_factory=dict)  # "image", "mask" and what else there is
    captions: tuple[str, ...] = ()


@dataclass
class Survey:
    """What a split holds; `problems` make it unusable, `notes` are worth knowing. Each is a sentence."""

    root: Path
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    files: dict[str, dict[str, Path]] = field(default_factory=dict)  # kind -> stem -> file
    said: dict[str, list[str]] | None = None  # stem -> captions
    sources: list[Path] = field(default_factory=list)  # files that belong to no one image

    def __post_init__(self):
        self.root_exists = self.root.is_dir()
        if not self.root_exists:
            self.problems.append(f"the folder {self.root} does not exist; name the data set's folder with root=DIR.")

    def add(self, kind: str, endings: tuple[str, ...], *folders: str, optional: bool = False) -> None:
        """Looks for files of a kind in the first of the folders that exists."""
        places = [self.root / folder for folder in folders]
        place = next((place for place in places if place.is_dir()), None)
        if place:
            self.files[kind] = _by_stem(place, endings)
        if optional or not self.root_exists:
            return
        if place is None:
            where = " or ".join(map(str, places))
            self.problems.append(f"there is no folder {where} with the {kind} files; unpack that archive there.")
        elif not self.files[kind]:
            self.problems.append(f"{place} holds no *{endings[0]}; unpack the archive of {kind} files there.")

    def caption(self, given: str | None, default: str) -> None:
        """Reads captions from the file given, or from the official one if that exists."""
        path = Path(given) if given else self.root / default
        if not path.is_file():
            if given:
                self.problems.append(f"there is no captions file {path}; correct captions=FILE.")
            elif self.root_exists:
                self.notes.append(f"{path} does not exist, so the prompts are empty; captions=FILE names another.")
            return
        self.sources.append(path)
        try:
            self.said = captions(path)
        except BadSample as error:
            self.problems.append(str(error))

    def records(self) -> list[Record]:
        """The images that have all they need, by id; the others are added to the problems."""
        images, masks = self.files.get("image", {}), self.files.get("mask", {})
        self._orphans(images, masks)
        records = []
        for stem in sorted(images.keys() & masks.keys()):
            files = {kind: found[stem] for kind, found in self.files.items() if stem in found}
            records.append(Record(stem, files, self._said_of(stem)))
        return records

    def _orphans(self, images: dict[str, Path], masks: dict[str, Path]) -> None:
        """Where one of the folders is missing altogether, that is said already, and once."""
        if not (images and masks):
            return
        for stem in sorted(images.keys() - masks.keys()):
            self.problems.append(f"{images[stem]} has no label map; restore the map, or remove the image.")
        for stem in sorted(masks.keys() - images.keys()):
            self.problems.append(f"{masks[stem]} has no image; restore the image, or remove the map.")

    def _said_of(self, stem: str) -> tuple[str, ...]:
        """The captions of an image, the empty ones left out; () where the split has none at all."""
        if self.said is None:
            return ()
        source, said = self.sources[0], self.said.get(stem, [])
        kept = tuple(caption for caption in said if caption)
        if not said:
            self.problems.append(f"{source} has no caption for {stem}; add one.")
        elif not kept:
            self.problems.append(f"{source} has an empty caption for {stem}; write one.")
        elif len(kept) < len(said):
            self.notes.append(f"{source}: an empty caption of {stem} is passed over.")
        return kept


def _by_stem(place: Path, endings: tuple[str, ...]) -> dict[str, Path]:
    """Files below a folder by their name without its ending; hidden files are no part of a data set."""
    found = {}
    for path in sorted(place.rglob("*")):
        ending = next((e for e in endings if path.name.lower().endswith(e.lower())), None)
        if ending and not path.name.startswith("."):
            found[path.name[: -len(ending)]] = path
    return found


def inspected(record: Record, readers: dict[str, Callable[[Path], Any]]) -> tuple[dict[str, Any], list[str]]:
    """All parts of an image that can be read, and a sentence for each that cannot."""
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
