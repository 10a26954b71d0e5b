"""`lumen data check`: counts, opens and hashes every file of a data set, and never stops at the first fault."""

import hashlib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from lumen.data.index import inspected

if TYPE_CHECKING:
    from lumen.data.datamodule import DataModule


@dataclass
class Report:
    """What a check found; `hash` is of the content of all files, whatever their folder is called."""

    name: str
    root: str
    counts: dict[str, dict[str, int]] = field(default_factory=dict)  # split -> kind -> how many
    hash: str = ""
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.problems

    def __str__(self) -> str:
        found = f"{len(self.problems)} problem{'s' * (len(self.problems) > 1)}"
        verdict = "complete and readable" if self.ok else found
        lines = [f"{self.name} at {self.root}: {verdict}; content {self.hash}"]
        for split, counts in self.counts.items():
            lines.append(f"  {split}: " + ", ".join(f"{kind} {count}" for kind, count in counts.items()))
        lines += [f"  problem: {problem}" for problem in self.problems]
        return "\n".join(lines + [f"  note: {note}" for note in self.notes])


def report(module: "DataModule") -> Report:
    """Looks at both splits of a data set, whatever is wrong with either."""
    found = Report(module.name, str(module.root))
    hashes = {}
    for split in ("train", "val"):
        survey = module.survey(split)
        records = survey.records()
        kinds = Counter(kind for record in records for kind in record.files)
        found.counts[split] = kinds | {"captions": sum(len(record.captions) for record in records)}
        # Both splits may say the same, of a folder or of a captions file that they share.
        found.problems += [p for p in survey.problems if p not in found.problems]
        found.notes += [note for note in survey.notes if note not in found.notes]
        files = [path for record in records for path in record.files.values()] + survey.sources
        # Decoding and hashing leave the interpreter's lock, so threads use all cores.
        with ThreadPoolExecutor() as pool:
            for problems in pool.map(lambda record: inspected(record, module.readers)[1], records):
                found.problems += problems
            hashes |= zip(files, pool.map(_hash, files), strict=True)
    lines = sorted(f"{_place(path, module.root)} {digest}\n" for path, digest in hashes.items())
    found.hash = hashlib.sha256("".join(lines).encode()).hexdigest()[:16]
    return found


def _hash(path: Path) -> str:
    """Of one file's bytes; "missing" for one that went away, which is a problem already named."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return "missing"


def _place(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name
