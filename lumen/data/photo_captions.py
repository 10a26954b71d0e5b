"""Captions of the photos of a folder: text files beside them, metadata.jsonl, or captions.json."""

import json
import posixpath
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from lumen.core.errors import BadSample
from lumen.data.captions import as_captions, read_captions

CAPTIONS_FILE, METADATA_FILE, TEXT_SUFFIX = "captions.json", "metadata.jsonl", ".txt"
CAPTION_KEYS = ("text", "caption", "captions")  # of a line of metadata.jsonl, as `datasets` loads an image folder
FORM = "write text, or a list of texts."


class PhotoCaptions:
    """Captions of photos, each from the first of these that has one.

    1. PHOTO.txt beside the photo, one caption a line
    2. metadata.jsonl in a directory above it, which names photos relative to itself
    3. captions.json in the root, {name: caption or captions}

    Args:
        root: Directory of the photos.
        ids: Ids of the photos: paths below the root, in Unicode's composed form.
        problems: List that sentences about faults are added to.
        notes: List that sentences about everything else to know are added to.

    Attributes:
        by_id: Captions of the photos that have some.
        shared_files: Files that belong to no single photo.
    """

    def __init__(self, root: Path, ids: list[str], problems: list[str], notes: list[str]):
        self.root, self.ids, self.problems, self.notes = root, ids, problems, notes
        self.by_id: dict[str, tuple[str, ...]] = {}
        self.shared_files: list[Path] = []

    def read(self, files: dict[str, Path], named: Path | None = None) -> None:
        """Read all captions.

        Args:
            files: Files below the root by their path.
            named: Captions file that the user names, which replaces all others.
        """
        if named is not None and not named.exists():
            self.problems.append(f"there is no captions file {named}; correct data.captions=FILE.")
            return
        # The last one that is read wins.
        if (path := named or self.root / CAPTIONS_FILE).exists():
            self._read_file(path)
        if named is None:
            for name, path in files.items():
                if posixpath.basename(name).lower() == METADATA_FILE:
                    self._read_metadata(path, posixpath.dirname(name))
            self._read_texts({name: path for name, path in files.items() if name.lower().endswith(TEXT_SUFFIX)})
        if missing := [id for id in self.ids if id not in self.by_id]:
            self.notes.append(
                f"{len(missing):,} of {len(self.ids):,} photos have no caption, such as {missing[0]}: the prompts are "
                "empty; `lumen caption` writes some."
            )

    def _read_file(self, path: Path) -> None:
        """Read captions by the path of a photo below the root, or by its name alone where that is unique."""
        self.shared_files += [path] if path.is_file() else []
        try:
            content = read_captions(path)
        except BadSample as error:
            self.problems.append(str(error))
            return
        ids = ids_by_name(self.ids)
        strangers = [name for name in content if _compose(name) not in ids]
        if self.ids and len(strangers) == len(content):
            self.problems.append(
                f"{path} has no caption for any of the {len(self.ids):,} photos, which are called such as "
                f"{self.ids[0]!r}; write captions under the names of photos."
            )
        elif strangers:
            self.notes.append(f"{path} has captions of {_describe(strangers)} not there, such as {strangers[0]!r}.")
        for name, value in content.items():
            if id := ids.get(_compose(name)):
                self._add(id, value, f"{path} has {{}} as the caption of {name}; {FORM}")

    def _read_metadata(self, path: Path, folder: str) -> None:
        """Read a line of JSON for each photo."""
        self.shared_files.append(path)
        ids, strangers = set(self.ids), []
        for number, line in self._lines(path):
            name = line.get("file_name")
            if not isinstance(name, str):
                self.problems.append(f"line {number} of {path} has no text as its file_name; correct the line.")
                continue
            id = _compose(posixpath.normpath(posixpath.join(folder, name)))
            if id not in ids:
                strangers.append(name)
            elif value := next((line[key] for key in CAPTION_KEYS if line.get(key)), None):
                self._add(id, value, f"line {number} of {path} has {{}} as its caption; {FORM}")
        if strangers:
            self.notes.append(f"{path} names {_describe(strangers)} not there, such as {strangers[0]!r}.")

    def _lines(self, path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
        for number, line in enumerate(self._text(path), 1):
            try:
                content = json.loads(line) if line.strip() else {"file_name": ""}
            except (ValueError, RecursionError):
                content = None
            if not isinstance(content, dict):
                self.problems.append(f"line {number} of {path} is no JSON object; write one for each photo.")
            elif line.strip():
                yield number, content

    def _read_texts(self, files: dict[str, Path]) -> None:
        """Read the text files that are called as photos are; others, such as notes, belong to no photo."""
        by_stem: dict[str, list[str]] = {}
        for id in self.ids:
            by_stem.setdefault(posixpath.splitext(id)[0], []).append(id)
        for name, path in files.items():
            if ids := by_stem.get(_compose(name[: -len(TEXT_SUFFIX)])):
                lines = self._text(path)
                for id in ids:
                    self._add(id, lines, f"{path} holds {{}}; {FORM}")

    def _text(self, path: Path) -> list[str]:
        """Return the lines of a text file; none of one that cannot be read, which is a problem."""
        try:
            return path.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError):
            self.problems.append(f"{path} cannot be read as text in UTF-8; save it so, or remove it.")
            return []

    def _add(self, id: str, value: Any, problem: str) -> None:
        """Set the captions of a photo, unless they are empty."""
        try:
            captions = tuple(filter(None, as_captions(value)))
        except ValueError as error:
            self.problems.append(problem.format(error))
            return
        if captions:
            self.by_id[id] = captions


def ids_by_name(ids: Iterable[str]) -> dict[str, str]:
    """Return ids by themselves and without suffix, and by the name alone where it is the name of a single photo."""
    names = {id: (posixpath.basename(id), posixpath.splitext(posixpath.basename(id))[0]) for id in ids}
    counts = Counter(name for pair in names.values() for name in pair)
    unique = {name: id for id, pair in names.items() for name in pair if counts[name] == 1}
    return unique | {posixpath.splitext(id)[0]: id for id in names} | {id: id for id in names}


def _describe(strangers: list[str]) -> str:
    return "1 photo that is" if len(strangers) == 1 else f"{len(strangers):,} photos that are"


def _compose(name: str) -> str:
    """Return a name in Unicode's composed form; macOS writes accents apart from their letters."""
    return unicodedata.normalize("NFC", name)
