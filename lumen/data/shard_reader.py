"""Tar archives that are read from front to back, from a disk or an address, again where a connection breaks off."""

import tarfile
import time
import zlib
from collections.abc import Iterator
from http.client import HTTPException, HTTPResponse
from itertools import islice
from typing import IO
from urllib.error import HTTPError
from urllib.request import urlopen

from lumen.core.errors import BadSample
from lumen.data.encoded import EncodedImage
from lumen.data.shards import CAPTION_ENDS, IMAGE_ENDS, decode_captions, is_address, shard_name, split_member

WAITS_SECONDS = (1, 5, 30)  # before an address is asked again
TIMEOUT_SECONDS = 60
READ_BYTES = 1 << 20  # that are asked for at a time
READ_ERRORS = (OSError, HTTPException, tarfile.TarError, EOFError, zlib.error)


def read_shard(shard: str, mask_end: str | None = None) -> Iterator[tuple[str, EncodedImage]]:
    """Yield id and content of the images of a shard, whose files stand side by side. The id is SHARD/NAME.

    Args:
        shard: Path, or address beginning with https:, http: or file:.
        mask_end: End of the names of label maps, such as "seg.png"; None without label maps.

    Raises:
        BadSample: The shard cannot be read, or is cut.
    """
    number = 0
    for wait in (*WAITS_SECONDS, None):
        try:
            for id, ends in islice(_group_members(shard), number, None):
                yield id, _to_image(id, ends, mask_end)
                number += 1
            return
        except READ_ERRORS as error:
            if wait is None or not _may_pass(shard, error):
                reason = str(error).rstrip(".") or type(error).__name__
                raise BadSample(
                    f"{shard} cannot be read beyond image {number:,} ({reason}); see whether it answers and is whole, "
                    "then repeat the command."
                ) from None
        time.sleep(wait)


def _may_pass(shard: str, error: Exception) -> bool:
    """Return whether an error may be over at the next attempt."""
    is_refused = isinstance(error, HTTPError) and error.code in range(400, 500) and error.code not in (408, 429)
    return shard.startswith("http") and is_address(shard) and not is_refused


def _group_members(shard: str) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Yield the files of each image by the end of their names. A shard without an error has been read to its end."""
    folder = shard_name(shard)
    name: str | None = None
    ends: dict[str, bytes] = {}
    with _open(shard) as file:
        with tarfile.open(fileobj=file, mode="r|*", bufsize=READ_BYTES, encoding="utf-8") as archive:
            while (entry := archive.next()) is not None:
                archive.members.clear()  # it holds 1 KB for each
                stem, end = split_member(shard, entry.name)
                if not entry.isreg() or not stem:
                    continue
                if stem != name:
                    if any(end in ends for end in IMAGE_ENDS):
                        yield f"{folder}/{name}", ends
                    name, ends = stem, {}
                ends[end] = archive.extractfile(entry).read()
        file.read()  # raises an error if less has come than was announced
    if any(end in ends for end in IMAGE_ENDS):
        yield f"{folder}/{name}", ends


def _open(shard: str) -> IO[bytes] | HTTPResponse:
    return urlopen(shard, timeout=TIMEOUT_SECONDS) if is_address(shard) else open(shard, "rb")


def _to_image(id: str, ends: dict[str, bytes], mask_end: str | None) -> EncodedImage:
    image = next(ends[end] for end in IMAGE_ENDS if end in ends)
    caption = next((end for end in CAPTION_ENDS if end in ends), None)
    captions = None if caption is None else decode_captions(id, caption, ends[caption])
    return EncodedImage(image, ends.get(mask_end), captions)
