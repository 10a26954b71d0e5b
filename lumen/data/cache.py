"""On-disk cache of outputs of frozen networks: memory-mapped shards, addressed by everything they depend on."""

import json
import os
import time
import weakref
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lumen.core.errors import Mistake, RunBusy
from lumen.core.files import atomic_path, remove_drafts, write, write_json
from lumen.core.hashing import hash_file, hash_json
from lumen.core.locks import lock_directory

if TYPE_CHECKING:
    from torch import Tensor

SHARD_SIZE = 256  # images; also what one lock guards, and what an interrupted process may lose


class CacheStore:
    """Cached rows of one kind under one key: a directory of shards, each of which is complete or absent.

    A JSON file beside each shard holds its SHA-256, its number of rows, and the metadata that was written with it.
    `prune` removes no store that an object of this class has read or written, in whichever process.

    Args:
        root: Directory of all stores.
        kind: First part of the directory's name, such as "latents".
        key: Everything that a row depends on besides the content of its image, as plain values.
    """

    def __init__(self, root: Path, kind: str, key: dict[str, Any]):
        self.kind, self.key = kind, key
        self.directory = root / f"{kind}-{hash_json(key)}"
        self._is_held, self._locks = False, ExitStack()
        weakref.finalize(self, self._locks.close)

    def hold(self) -> None:
        """Lock the store as long as this object exists, so that `prune` passes it over.

        Raises:
            Mistake: The directory cannot be written, or its file system has no locks.
        """
        if self._is_held:
            return
        with suppress(RunBusy), lock_store(self.directory) as is_alone:
            if is_alone:
                remove_drafts(self.directory)
        self._locks.enter_context(lock_store(self.directory, shared=True))
        self._is_held = True

    def has(self, shard: str) -> bool:
        """Return whether a shard exists; it then stays as long as this object."""
        path = self.directory / f"{shard}.npy"
        with suppress(Mistake):  # a cache that this process cannot write can be read
            if path.exists():
                self.hold()
        return path.exists()

    def write(self, shard: str, rows: np.ndarray, metadata: dict[str, Any]) -> None:
        """Write a shard and its metadata atomically.

        Raises:
            Mistake: The disk is full, or the directory is not writable, or its file system has no locks.
        """
        self.hold()
        if not (self.directory / "recipe.json").exists():
            write_json(self.directory / "recipe.json", self.key)
        with atomic_path(self.directory / f"{shard}.npy") as temporary:
            with open(temporary, "wb") as file:
                np.save(file, rows)
            write_json(
                self.directory / f"{shard}.json", {"sha256": hash_file(temporary), "rows": len(rows), **metadata}
            )

    def read(self, shard: str) -> np.ndarray:
        """Return the rows of a shard, memory-mapped."""
        return np.load(self.directory / f"{shard}.npy", mmap_mode="r")

    def metadata(self, shard: str) -> dict[str, Any]:
        """Return the metadata of a shard."""
        return json.loads((self.directory / f"{shard}.json").read_text())

    def touch(self) -> None:
        """Record that the store is in use; `prune` removes the least recently used stores first."""
        with suppress(OSError):
            os.utime(self.directory)


class CachedArray:
    """Cached rows of a whole data set, by image and view.

    Args:
        store: Store that holds all shards.
        shards: Names of the shards: for each view, one per range of images (see `shard_ranges`).
    """

    def __init__(self, store: CacheStore, shards: Sequence[Sequence[str]]):
        # All shards are opened here: a mapped file remains readable after another process has pruned it.
        self.shards = [[store.read(shard) for shard in view] for view in shards]
        self.metadata = [store.metadata(shard) for shard in shards[0]]
        store.touch()

    def take(self, positions: Sequence[tuple[int, int]]) -> "Tensor":
        """Return the rows (b, ...) at positions (image, view), with a single copy."""
        import torch

        template = self.shards[0][0]
        rows = np.empty((len(positions), *template.shape[1:]), template.dtype)
        for row, (image, view) in zip(rows, positions, strict=True):
            row[...] = self.shards[view][image // SHARD_SIZE][image % SHARD_SIZE]
        return torch.from_numpy(rows)


def shard_ranges(num_images: int) -> list[range]:
    """Return the images of each shard."""
    return [range(start, min(start + SHARD_SIZE, num_images)) for start in range(0, num_images, SHARD_SIZE)]


def hash_files(files: Sequence[Iterable[Path]], memo: Path) -> list[str]:
    """Return one hash of file contents per image. A file whose size and time have not changed is not read again.

    Args:
        files: Files of each image.
        memo: JSON file that remembers the hashes.
    """
    known: dict[str, list] = {}
    with suppress(OSError, ValueError):
        known = json.loads(memo.read_text())

    def hash_content(path: Path) -> str:
        stat = path.stat()
        entry = known.get(str(path.resolve()))
        if entry and entry[:2] == [stat.st_size, stat.st_mtime_ns]:
            return entry[2]
        content = hash_file(path)[:16]
        new[str(path.resolve())] = [stat.st_size, stat.st_mtime_ns, content]
        return content

    new: dict[str, list] = {}
    with ThreadPoolExecutor() as pool:  # reading and hashing release the GIL
        hashes = list(pool.map(lambda paths: hash_json([hash_content(path) for path in paths]), files))
    if new:
        write(memo, json.dumps(known | new))
    return hashes


@dataclass
class StoreInfo:
    """Summary of a store for its user.

    Attributes:
        directory: Directory of the store.
        num_rows: Rows of all shards.
        num_bytes: Size of all files.
        last_used: Time of last use, in seconds since 1970.
        description: Data set, image size and number type.
        is_in_use: Whether a process reads or writes the store.
    """

    directory: Path
    num_rows: int
    num_bytes: int
    last_used: float
    description: str
    is_in_use: bool = False

    def __str__(self) -> str:
        used = time.strftime("%Y-%m-%d %H:%M", time.localtime(self.last_used))
        size = format_bytes(self.num_bytes)
        return f"{self.directory.name}  {self.num_rows} rows  {size}  used {used}  {self.description}"


def list_stores(root: Path) -> list[StoreInfo]:
    """Return all stores, the most recently used first."""
    stores = []
    for path in root.glob("*/recipe.json"):
        with suppress(FileNotFoundError):  # another process prunes
            stores.append(_describe_store(path.parent))
    return sorted(stores, key=lambda store: -store.last_used)


def _describe_store(directory: Path) -> StoreInfo:
    key = json.loads((directory / "recipe.json").read_text())
    description = f"{key['look']['data']} at {key['look']['size']} px, {key['dtype']}"
    num_rows = sum(len(np.load(shard, mmap_mode="r")) for shard in directory.glob("*.npy"))
    return StoreInfo(directory, num_rows, directory_bytes(directory), directory.stat().st_mtime, description)


def remove_corrupt_shards(root: Path) -> Iterator[Path]:
    """Remove shards that differ from what was written, and yield their paths; runs compute them again."""
    for store in list_stores(root):
        for path in sorted(store.directory.glob("*.npy")):
            metadata = path.with_suffix(".json")
            if not metadata.exists() or json.loads(metadata.read_text())["sha256"] != hash_file(path):
                path.unlink()
                metadata.unlink(missing_ok=True)
                yield path


def prune(root: Path, limit: int) -> Iterator[StoreInfo]:
    """Remove the least recently used stores until the others take at most `limit` bytes, and yield them.

    Stores in use are left, and yielded as well.

    Raises:
        Mistake: A store cannot be removed.
    """
    stores = list_stores(root)
    total = sum(store.num_bytes for store in stores)
    while stores and total > limit:
        oldest = stores.pop()
        try:
            with lock_store(oldest.directory):
                _remove_store(oldest.directory)
            total -= oldest.num_bytes
        except RunBusy:
            oldest.is_in_use = True
        yield oldest


def lock_store(directory: Path, shared: bool = False) -> AbstractContextManager[bool]:
    """Lock a store. The lock lies beside the stores, because NFS removes no directory with an open file."""
    return lock_directory(directory.parent / "locks", directory.name, shared)


def _remove_store(directory: Path) -> None:
    """Remove a store, and last the file that `list_stores` finds it by."""
    try:
        for path in sorted(directory.iterdir(), key=lambda path: path.name == "recipe.json"):
            path.unlink()
        directory.rmdir()
    except FileNotFoundError:  # somebody else has removed it
        pass
    except OSError as error:
        raise Mistake(f"{directory} cannot be removed: {error.strerror}; remove it by hand.") from None


def format_bytes(num_bytes: float) -> str:
    """Return a size in MB or GB."""
    return f"{num_bytes / 1e9:.3g} GB" if num_bytes > 1e8 else f"{num_bytes / 1e6:.3g} MB"


def directory_bytes(root: Path) -> int:
    """Return the size of all files below a directory."""
    total = 0
    for directory, _, names in os.walk(root):
        for name in names:
            with suppress(OSError):  # a process has renamed or removed it
                total += os.stat(os.path.join(directory, name)).st_size
    return total
