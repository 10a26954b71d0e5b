"""Shards of a WebDataset: tar archives whose members of one name, up to its first dot, belong to one image."""

import json
import os
import re
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from lumen.core.errors import BadSample, DatasetMissing
from lumen.core.paths import user_path
from lumen.core.text import is_unicode
from lumen.data.encoded import EncodedImage

IMAGE_ENDS = ("jpg", "jpeg", "png", "webp")
CAPTION_ENDS = ("txt", "json")
CAPTION_KEYS = ("caption", "captions", "text")  # of a JSON member
RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
MAX_SHARDS = 100_000
ADDRESSES = ("https://", "http://", "file://")  # that can be streamed


class Member(NamedTuple):
    """Place of a file within the shards."""

    shard: Path
    offset: int
    size: int

    def read(self) -> bytes:
        """Return the content of the file.

        Raises:
            BadSample: The shard is gone, or has been cut.
        """
        try:
            with open(self.shard, "rb") as file:
                file.seek(self.offset)
                content = file.read(self.size)
        except OSError as error:
            raise BadSample(f"{self.shard} cannot be read: {error.strerror}; restore the shard.") from None
        if len(content) < self.size:
            raise BadSample(f"{self.shard} ends within a file; copy the shard again.")
        return content


@dataclass
class ShardIndex:
    """Images of local shards by id, which is SHARD/NAME. Headers alone are read, so any image is read at once.

    Args:
        shards: Paths of the shards.
        mask_end: End of the names of label maps, such as "seg.png"; None without label maps.
    """

    shards: list[Path]
    mask_end: str | None = None
    images: dict[str, dict[str, Member]] = field(default_factory=dict)

    def __post_init__(self):
        for shard in self.shards:
            self._add(shard)

    def load(self, id: str) -> EncodedImage:
        """Return the content of an image."""
        members = self.images[id]
        mask = members[self.mask_end].read() if self.mask_end in members else None
        image = next(members[end] for end in IMAGE_ENDS if end in members)
        caption = next((end for end in CAPTION_ENDS if end in members), None)
        return EncodedImage(image.read(), mask, caption and decode_captions(id, caption, members[caption].read()))

    def _add(self, shard: Path) -> None:
        """Add the images of a shard.

        Raises:
            DatasetMissing: It is no tar archive that can be read at any place, or two shards have one name.
        """
        try:
            with tarfile.TarFile(shard) as archive:
                members = list(_iterate_members(archive))
        except FileNotFoundError:
            raise DatasetMissing(f"{shard} does not exist; correct data.shards.") from None
        except (OSError, tarfile.TarError, ValueError) as error:
            raise DatasetMissing(
                f"{shard} cannot be read as a tar archive ({error}); copy it again, or unpack its compression."
            ) from None
        images: dict[str, dict[str, Member]] = {}
        for name, offset, size in members:
            stem, end = split_member(shard, name)
            if stem:
                images.setdefault(f"{shard.name}/{stem}", {})[end] = Member(shard, offset, size)
        images = {id: ends for id, ends in images.items() if any(end in ends for end in IMAGE_ENDS)}
        if twice := next((id for id in images if id in self.images), None):
            raise DatasetMissing(f"two shards are called {shard.name}, and both hold {twice}; rename either shard.")
        self.images |= images


def list_shards(shards: Iterable[str], streaming: bool = False) -> list[Path | str]:
    """Return the paths of shards, and where they are streamed also addresses.

    Args:
        shards: Paths, which may hold a range such as {000..099}, and directories of .tar files.

    Raises:
        DatasetMissing: There are none, or one is no local path.
    """
    paths: list[Path | str] = []
    for text in shards:
        if ":" in text.partition("/")[0] and not (streaming and is_address(text)):
            raise DatasetMissing(
                f"data.shards={text} is no local path; stream addresses that begin with {', '.join(ADDRESSES)} by "
                "data.streaming=true, or mount the storage as a folder. Commands behind pipe: are never run."
            )
        for name in _expand(text):
            path = user_path(name)
            local = sorted(path.glob("*.tar")) if path.is_dir() else [path]
            paths += [name] if is_address(name) else local
    if not paths:
        raise DatasetMissing(f"data.shards={','.join(shards)} holds no .tar file; name a folder of shards.")
    return paths


def is_address(shard: str) -> bool:
    """Return whether a shard is named by an address that is read through its protocol."""
    return shard.startswith(ADDRESSES)


def shard_name(shard: str) -> str:
    """Return the name of a shard, which the ids of its images begin with."""
    return (urlsplit(shard).path if is_address(shard) else shard).rpartition("/")[2]


def split_member(shard: Path | str, name: str) -> tuple[str, str]:
    """Return what the files of an image share of their names, empty for none, and the end that tells them apart.

    Raises:
        BadSample: The name is not encoded in UTF-8.
    """
    if not is_unicode(name):
        raise BadSample(f"the name {name!a} in {shard} is not encoded in UTF-8; rename the file, and pack it again.")
    folder, _, file = name.rpartition("/")
    stem, _, end = file.partition(".")
    return (f"{folder}/{stem}" if folder and stem else stem), end.lower()


def _expand(text: str) -> list[str]:
    """Return the names that a text with ranges stands for, as shells expand {000..099}."""
    match = RANGE.search(text)
    if match is None:
        return [text]
    first, last = match.groups()
    if not int(first) <= int(last) < int(first) + MAX_SHARDS:
        raise DatasetMissing(f"data.shards={text} has a range of no or of more than {MAX_SHARDS:,} shards; correct it.")
    numbers = [str(number).zfill(len(first)) for number in range(int(first), int(last) + 1)]
    return [name for number in numbers for name in _expand(text[: match.start()] + number + text[match.end() :])]


def _iterate_members(archive: tarfile.TarFile) -> Iterator[tuple[str, int, int]]:
    """Yield name, offset and size of each regular file, and have the archive forget it: it holds 1 KB for each."""
    while (entry := archive.next()) is not None:
        if entry.isreg():
            yield entry.name, entry.offset_data, entry.size
        archive.members.clear()


def decode_captions(id: str, end: str, content: bytes) -> Any:
    """Return the captions in a file of an image.

    Raises:
        BadSample: It is damaged.
    """
    try:
        text = content.decode("utf-8-sig")
        if end == "txt":
            return text.splitlines()
        value = json.loads(text)
    except (ValueError, RecursionError):
        raise BadSample(f"the .{end} of {id} is damaged; write text in UTF-8.") from None
    return next((value[key] for key in CAPTION_KEYS if value.get(key)), None) if isinstance(value, dict) else value


def shard_sizes(paths: Iterable[Path]) -> list[tuple[str, int]]:
    """Return name and bytes of each shard."""
    return [(path.name, os.path.getsize(path)) for path in paths]
