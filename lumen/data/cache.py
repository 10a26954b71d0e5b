"""On-disk cache of outputs of frozen networks: memory-mapped shards, addressed by everything they depend on."""

import json
import os
import threading
import weakref
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lumen.core.errors import BadFile, Mistake, RunBusy
from lumen.core.files import atomic_path, remove_drafts, write, write_json
from lumen.core.hashing import hash_file, hash_json
from lumen.core.locks import lock_directory
from lumen.core.packed import PackedList
from lumen.core.readers import Shape, read_array, read_json

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

SHARD_SIZE = 256  # images; also what one lock guards, and what an interrupted process may lose
SHARD_REMEDY = "remove it, and runs compute it again"


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
        self._intact: set[str] = set()  # shards that equal their recorded hash
        self._is_held, self._locks, self._mutex = False, ExitStack(), threading.Lock()
        weakref.finalize(self, self._locks.close)

    def hold(self) -> None:
        """Lock the store as long as this object exists, so that `prune` passes it over.

        Raises:
            Mistake: The directory cannot be written, or its file system has no locks.
        """
        with self._mutex:
            if self._is_held:
                return
            with suppress(RunBusy), lock_store(self.directory) as is_alone:
                if is_alone:
                    remove_drafts(self.directory)
            self._locks.enter_context(lock_store(self.directory, shared=True))
            self._is_held = True

    def has(self, shard: str) -> bool:
        """Return whether an intact shard exists; it then stays as long as this object.

        It is compared with its hash when it is first asked for. One that differs is removed, and that is printed.
        """
        path = self.directory / f"{shard}.npy"
        with suppress(Mistake):  # a cache that this process cannot write can be read
            if path.exists():
                self.hold()
        if shard in self._intact or not path.exists():
            return path.exists()
        if remove_if_damaged(path):
            print(f"cache: {path} is not what was written there; it is computed again.", flush=True)
            return False
        self._intact.add(shard)
        return True

    def write(self, shard: str, rows: "np.ndarray", metadata: dict[str, Any]) -> None:
        """Write a shard and its metadata atomically.

        Raises:
            Mistake: The disk is full, or the directory is not writable, or its file system has no locks.
        """
        import numpy as np

        self.hold()
        self._write_recipe()
        with atomic_path(self.directory / f"{shard}.npy") as temporary:
            with open(temporary, "wb") as file:
                np.save(file, rows)
            write_json(
                self.directory / f"{shard}.json", {"sha256": hash_file(temporary), "rows": len(rows), **metadata}
            )
        self._intact.add(shard)

    def read(self, shard: str) -> "np.ndarray":
        """Return the rows of a shard, memory-mapped."""
        return read_array(self.directory / f"{shard}.npy", SHARD_REMEDY)

    def metadata(self, shard: str, shape: Shape | None = None) -> dict[str, Any]:
        """Return the metadata of a shard, which must hold the keys of the shape."""
        return read_json(self.directory / f"{shard}.json", SHARD_REMEDY, shape)

    def touch(self) -> None:
        """Record that the store is in use; `prune` removes the least recently used stores first."""
        with suppress(OSError, Mistake):
            self._write_recipe()
            os.utime(self.directory)

    def _write_recipe(self) -> None:
        """Write what the store is of, for `list_stores`; `lumen cache verify` removes a damaged one."""
        if not (self.directory / "recipe.json").exists():
            write_json(self.directory / "recipe.json", self.key)


class CachedArray:
    """Cached rows of a whole data set, by image and view.

    Args:
        store: Store that holds all shards.
        shards: Names of the shards: for each view, one per range of images (see `shard_ranges`).

    Attributes:
        captions: Captions of each image, as they were when it was cached.
    """

    def __init__(self, store: CacheStore, shards: Sequence[Sequence[str]]):
        # All shards are opened here: a mapped file remains readable after another process has pruned it.
        self.shards = [[store.read(shard) for shard in view] for view in shards]
        metadata = (store.metadata(shard, {"captions": list}) for shard in shards[0])
        self.captions = PackedList(captions for facts in metadata for captions in facts["captions"])
        store.touch()

    def take(self, positions: Sequence[tuple[int, int]]) -> "Tensor":
        """Return the rows (b, ...) at positions (image, view), with a single copy."""
        import numpy as np
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
    known: dict[str, Any] = {}
    with suppress(Mistake):
        known = read_json(memo, "remove it")

    def hash_content(path: Path) -> str:
        stat, name = path.stat(), real_name(path)
        match known.get(name):
            case [stat.st_size, stat.st_mtime_ns, str(content)]:
                return content
        content = hash_file(path)[:16]
        new[name] = [stat.st_size, stat.st_mtime_ns, content]
        return content

    real_directory = cache(os.path.realpath)  # a million files lie in few directories

    def real_name(path: Path) -> str:
        if path.is_symlink():
            return os.path.realpath(path)
        return os.path.join(real_directory(path.parent), path.name)

    def hash_images(span: Sequence[Iterable[Path]]) -> list[str]:
        return [hash_json([hash_content(path) for path in paths]) for paths in span]

    new: dict[str, list] = {}
    with ThreadPoolExecutor() as pool:  # reading and hashing release the GIL
        spans = [files[span.start : span.stop] for span in shard_ranges(len(files))]
        hashes = [content for part in pool.map(hash_images, spans) for content in part]
    if new:
        write(memo, json.dumps(known | new))
    return hashes


def remove_if_damaged(shard: Path) -> bool:
    """Compare a shard with its recorded hash, remove it if it differs, and return whether it did.

    Raises:
        Mistake: The system does not give it, or it differs and cannot be removed.
    """
    try:
        before = shard.stat()
        if hash_file(shard) == _recorded_hash(shard):
            return False
        after = shard.stat()
        if (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns):  # no other process replaced it
            _remove_shard(shard)
    except FileNotFoundError:  # another process has removed it
        pass
    except OSError as error:  # such as too many open files, which is no damage
        raise Mistake(f"{shard} cannot be read: {error.strerror}; {SHARD_REMEDY}.") from None
    return True


def _recorded_hash(shard: Path) -> str | None:
    """Return the hash that the metadata of a shard hold; None if they are missing or damaged."""
    metadata = shard.with_suffix(".json")
    with suppress(BadFile):
        return read_json(metadata, SHARD_REMEDY, {"sha256": str})["sha256"] if metadata.exists() else None
    return None


def _remove_shard(shard: Path) -> None:
    try:
        shard.unlink(missing_ok=True)
        shard.with_suffix(".json").unlink(missing_ok=True)
    except OSError as error:
        raise Mistake(f"{shard} is damaged and cannot be removed: {error.strerror}; remove it by hand.") from None


def lock_store(directory: Path, shared: bool = False) -> AbstractContextManager[bool]:
    """Lock a store. The lock lies beside the stores, because NFS removes no directory with an open file."""
    return lock_directory(directory.parent / "locks", directory.name, shared, temporary=False)


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
