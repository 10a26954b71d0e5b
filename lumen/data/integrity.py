"""Integrity check of a data set: counts, opens and hashes every file, and reports all faults at once."""

import hashlib
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from lumen.core.parallel import map_in_order
from lumen.core.progress import Phase
from lumen.core.text import escape_line
from lumen.data.index import DatasetIndex, ImageRecord, read_record
from lumen.data.problems import summarize
from lumen.data.readers import is_turned
from lumen.data.records import ImageRecords

IMAGES_PER_LINE = 10_000  # of progress, where there is no terminal


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
    records_by_split = {split: ImageRecords(index.match_records()) for split, index in indices.items()}
    num_images = sum(map(len, records_by_split.values()))
    options = {"every": IMAGES_PER_LINE, "stream": sys.stderr, "leaves_line": False}
    with Phase("checking", num_images, "images", **options) as phase:
        for split, records in records_by_split.items():
            index = indices[split]
            kinds = Counter(kind for record in records for kind in record.files)
            report.counts[split] = kinds | {"captions": sum(len(record.captions) for record in records)}
            # Both splits may report the same fault, of a directory or of a captions file that they share.
            report.problems = list(dict.fromkeys([*report.problems, *index.problems]))
            report.notes = list(dict.fromkeys([*report.notes, *index.notes]))
            results = map_in_order(partial(_check_record, readers=readers), records)
            for record, (problems, notes, digests) in zip(records, results, strict=True):
                report.problems += problems
                report.notes += notes
                hashes |= zip(record.files.values(), digests, strict=True)
                phase.advance()
            hashes |= {path: _hash_file(path) for path in index.shared_files}
    lines = sorted(f"{_relative_name(path, root)} {digest}\n" for path, digest in hashes.items())
    report.hash = hashlib.sha256("".join(lines).encode(errors="surrogateescape")).hexdigest()[:16]
    return report


def _check_record(
    record: ImageRecord, readers: dict[str, Callable[[Path], Any]]
) -> tuple[list[str], list[str], list[str]]:
    """Return sentences about faults of the files of an image, about all else to know, and a hash of each file."""
    parts, problems = read_record(record, readers)
    notes = []
    if isinstance(image := parts.get("image"), Image.Image) and is_turned(image):
        notes.append(f"{record.files['image']} is to be turned by EXIF; it is used as stored, like its label map.")
    return problems, notes, [_hash_file(path) for path in record.files.values()]


def _hash_file(path: Path) -> str:
    """Return the SHA-256 of a file, or "missing" for an unreadable file, which is a problem already."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return "missing"


def _relative_name(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name
