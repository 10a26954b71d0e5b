"""Integrity check of a data set: counts, opens and hashes every file, and reports all faults at once."""

import hashlib
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from lumen.core.text import escape_line
from lumen.data.index import DatasetIndex, ImageRecord, read_record
from lumen.data.problems import summarize
from lumen.data.readers import is_turned


@dataclass
class IntegrityReport:
    """Result of a check.

    Attributes:
        name: Name of the data set.
        root: Directory of the data set.
        counts: Files of each kind, by split.
        hash: Hash of the content of all files, which does not depend on the directory's name.
        problems: Sentences about faults.
        notes: Sentences about everything else that a user should know.
    """

    name: str
    root: str
    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    hash: str = ""
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """True if the data set has no faults."""
        return not self.problems

    def __str__(self) -> str:
        return self.format()

    def format(self, complete: bool = False) -> str:
        """Return the report as text, with a sentence for every problem or, without `complete`, for every kind."""
        num_problems = f"{len(self.problems)} problem{'s' * (len(self.problems) > 1)}"
        verdict = "complete and readable" if self.ok else num_problems
        lines = [f"{self.name} at {self.root}: {verdict}; content {self.hash}"]
        for split, counts in self.counts.items():
            lines.append(f"  {split}: " + ", ".join(f"{kind} {count}" for kind, count in counts.items()))
        problems, notes = (f if complete else summarize(f) for f in (self.problems, self.notes))
        lines += [f"  problem: {problem}" for problem in problems] + [f"  note: {note}" for note in notes]
        if len(problems) < len(self.problems):
            lines.append("  --all lists every problem")
        return "\n".join(map(escape_line, lines))


def check_dataset(
    name: str, root: Path, indices: dict[str, DatasetIndex], readers: dict[str, Callable[[Path], Any]]
) -> IntegrityReport:
    """Check all splits of a data set, and change nothing.

    Args:
        name: Name of the data set.
        root: Directory of the data set.
        indices: Index of each split.
        readers: Reader of each kind of file.
    """
    report = IntegrityReport(name, str(root))
    hashes = {}
    for split, index in indices.items():
        records = index.match_records()
        kinds = Counter(kind for record in records for kind in record.files)
        report.counts[split] = kinds | {"captions": sum(len(record.captions) for record in records)}
        # Both splits may report the same fault, of a directory or of a captions file that they share.
        report.problems = list(dict.fromkeys([*report.problems, *index.problems]))
        report.notes = list(dict.fromkeys([*report.notes, *index.notes]))
        files = [path for record in records for path in record.files.values()] + index.shared_files
        # Decoding and hashing release the GIL, so threads use all cores.
        with ThreadPoolExecutor() as pool:
            for problems, notes in pool.map(partial(_check_record, readers=readers), records):
                report.problems += problems
                report.notes += notes
            hashes |= zip(files, pool.map(_hash_file, files), strict=True)
    lines = sorted(f"{_relative_name(path, root)} {digest}\n" for path, digest in hashes.items())
    report.hash = hashlib.sha256("".join(lines).encode(errors="surrogateescape")).hexdigest()[:16]
    return report


def _check_record(record: ImageRecord, readers: dict[str, Callable[[Path], Any]]) -> tuple[list[str], list[str]]:
    """Return sentences about faults of the files of an image, and about everything else that a user should know."""
    parts, problems = read_record(record, readers)
    notes = []
    if isinstance(image := parts.get("image"), Image.Image) and is_turned(image):
        notes.append(f"{record.files['image']} is to be turned by EXIF; it is used as stored, like its label map.")
    return problems, notes


def _hash_file(path: Path) -> str:
    """Return the SHA-256 of a file, or "missing" for an unreadable file, which is a problem already."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return "missing"


def _relative_name(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name
