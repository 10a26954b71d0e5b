"""Inventory of the cache: what its stores hold, which of their files are damaged, and which are used least."""

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from lumen.core.errors import Mistake, RunBusy
from lumen.core.hashing import hash_json
from lumen.core.readers import Shape, read_array, read_json
from lumen.data.cache import SHARD_REMEDY, directory_bytes, format_bytes, lock_store, remove_if_damaged

RECIPE_SHAPE: Shape = {"look": {"data": str, "size": int}, "dtype": str}


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
    for directory in _store_directories(root):
        with suppress(FileNotFoundError):  # another process prunes
            stores.append(_describe_store(directory))
    return sorted(stores, key=lambda store: -store.last_used)


def _store_directories(root: Path) -> list[Path]:
    """Return the directories with a recipe or with shards."""
    directories = []
    for directory in sorted(root.iterdir()) if root.is_dir() else []:
        with suppress(FileNotFoundError, NotADirectoryError):  # another process prunes; a file
            if any(name == "recipe.json" or name.endswith(".npy") for name in os.listdir(directory)):
                directories.append(directory)
    return directories


def _describe_store(directory: Path) -> StoreInfo:
    """Return the summary of a store, with what its files show without being read as a whole."""
    num_rows, problems = 0, []
    for shard in directory.glob("*.npy"):
        try:
            num_rows += read_array(shard, SHARD_REMEDY).shape[0]
        except (Mistake, IndexError):
            problems.append(shard)
    try:
        key = read_json(directory / "recipe.json", SHARD_REMEDY, RECIPE_SHAPE)
        description = f"{key['look']['data']} at {key['look']['size']} px, {key['dtype']}"
    except Mistake:
        problems.append(directory / "recipe.json")
        description = "without a recipe"
    if problems:
        description += f"; {len(problems)} damaged or missing, see lumen cache verify"
    return StoreInfo(directory, num_rows, directory_bytes(directory), directory.stat().st_mtime, description)


def remove_damaged_files(root: Path) -> Iterator[Path]:
    """Remove shards and recipes that differ from what was written, and yield their paths; runs write them again."""
    for directory in _store_directories(root):
        yield from filter(remove_if_damaged, sorted(directory.glob("*.npy")))
        recipe = directory / "recipe.json"
        if recipe.exists() and not _is_recipe_intact(recipe):
            recipe.unlink(missing_ok=True)
            yield recipe


def _is_recipe_intact(path: Path) -> bool:
    """Return whether a recipe is the one that its directory is named after."""
    try:
        return hash_json(read_json(path, SHARD_REMEDY)) == path.parent.name.rpartition("-")[2]
    except Mistake:
        return False


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
