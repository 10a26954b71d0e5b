"""A cache of what frozen networks make of images: memory-mapped shards, addressed by what they were made of."""

import json
import os
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lumen.core.files import beside, write, write_json
from lumen.core.hashing import hash_file as _hash
from lumen.core.hashing import hash_json as digest

GROUP = 256  # images of a shard: what a kill may cost, and what one lock guards


class Shelf:
    """Rows of one kind, made by one recipe: a folder of shards, each whole or not there.

    Beside a shard a JSON file of the same name has its sha256, how long it took, and the facts given with it.

    Args:
        root: of all shelves.
        recipe: all that a row depends on besides the content of its image, as plain values.
    """

    def __init__(self, root: Path, kind: str, recipe: dict[str, Any]):
        self.kind, self.recipe = kind, recipe
        self.place = root / f"{kind}-{digest(recipe)}"

    def has(self, key: str) -> bool:
        return (self.place / f"{key}.npy").exists()

    def write(self, key: str, rows: np.ndarray, facts: dict[str, Any]) -> None:
        """
        Raises:
            Mistake: the disk is full, or the folder cannot be written.
        """
        if not (self.place / "recipe.json").exists():
            write_json(self.place / "recipe.json", self.recipe)
        with beside(self.place / f"{key}.npy") as draft:
            with open(draft, "wb") as file:
                np.save(file, rows)
            write_json(self.place / f"{key}.json", {"sha256": _hash(draft), "rows": len(rows), **facts})

    def read(self, key: str) -> np.ndarray:
        """A shard's rows, which come from the disk when they are looked at."""
        return np.load(self.place / f"{key}.npy", mmap_mode="r")

    def facts(self, key: str) -> dict[str, Any]:
        return json.loads((self.place / f"{key}.json").read_text())

    def touch(self) -> None:
        """Says that the shelf is in use: what has been left alone longest is pruned first."""
        with suppress(OSError):
            os.utime(self.place)


class Rows:
    """Rows of a whole data set, by image and look."""

    def __init__(self, shelf: Shelf, keys: Sequence[Sequence[str]]):
        """
        Args:
            keys: of the shards, for each look one per group of images.
        """
        # All are opened here: what is mapped can be read on though its file is pruned.
        self.shards = [[shelf.read(key) for key in look] for look in keys]
        self.facts = [shelf.facts(key) for key in keys[0]]  # of one look at all images
        shelf.touch()

    def gather(self, which: Sequence[tuple[int, int]]) -> Tensor:
        """The rows of a batch of (image, look), copied once."""
        first = self.shards[0][0]
        rows = np.empty((len(which), *first.shape[1:]), first.dtype)
        for row, (image, look) in zip(rows, which, strict=True):
            row[...] = self.shards[look][image // GROUP][image % GROUP]
        return torch.from_numpy(rows)


def groups(images: int) -> list[range]:
    """The images of each shard."""
    return [range(first, min(first + GROUP, images)) for first in range(0, images, GROUP)]


def stamps(files: Sequence[Iterable[Path]], memo: Path) -> list[str]:
    """Of the files of each image the content, hashed; a file of the same size and time as before is not read again.

    Args:
        memo: where the hashes are kept.
    """
    known: dict[str, list] = {}
    with suppress(OSError, ValueError):
        known = json.loads(memo.read_text())

    def one(path: Path) -> str:
        stat = path.stat()
        before = known.get(str(path.resolve()))
        if before and before[:2] == [stat.st_size, stat.st_mtime_ns]:
            return before[2]
        found = _hash(path)[:16]
        new[str(path.resolve())] = [stat.st_size, stat.st_mtime_ns, found]
        return found

    new: dict[str, list] = {}
    with ThreadPoolExecutor() as pool:  # hashing and reading let other threads run
        found = list(pool.map(lambda paths: digest([one(path) for path in paths]), files))
    if new:
        write(memo, json.dumps(known | new))
    return found


@dataclass
class Stock:
    """A shelf as its user sees it."""

    place: Path
    rows: int
    size: int  # bytes
    used: float  # when last, in seconds since 1970
    what: str

    def __str__(self) -> str:
        used = time.strftime("%Y-%m-%d %H:%M", time.localtime(self.used))
        return f"{self.place.name}  {self.rows} rows  {amount(self.size)}  used {used}  {self.what}"


def stock(root: Path) -> list[Stock]:
    """All shelves, the one that was used last first."""
    found = []
    for path in root.glob("*/recipe.json"):
        place, recipe = path.parent, json.loads(path.read_text())
        what = f"{recipe['look']['data']} at {recipe['look']['size']} px, {recipe['dtype']}"
        rows = sum(len(np.load(shard, mmap_mode="r")) for shard in place.glob("*.npy"))
        found.append(Stock(place, rows, size(place), place.stat().st_mtime, what))
    return sorted(found, key=lambda each: -each.used)


def damaged(root: Path) -> Iterator[Path]:
    """Shards that are not, byte for byte, what was written: they are removed, and made again when they are needed."""
    for each in stock(root):
        for path in sorted(each.place.glob("*.npy")):
            facts = path.with_suffix(".json")
            if not facts.exists() or json.loads(facts.read_text())["sha256"] != _hash(path):
                path.unlink()
                facts.unlink(missing_ok=True)
                yield path


def prune(root: Path, limit: int) -> Iterator[Stock]:
    """Removes the shelves left alone longest until all take no more than `limit` bytes."""
    shelves = stock(root)
    total = sum(each.size for each in shelves)
    while shelves and total > limit:
        oldest = shelves.pop()
        shutil.rmtree(oldest.place)
        total -= oldest.size
        yield oldest


def amount(count: float) -> str:
    """Bytes in words."""
    return f"{count / 1e9:.3g} GB" if count > 1e8 else f"{count / 1e6:.3g} MB"


def size(root: Path) -> int:
    """Bytes of all that lies in a folder."""
    return sum(path.stat().st_size for path in root.rglob("*") if path.is_file())
