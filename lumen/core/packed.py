"""List of plain values in one block of bytes, which forked processes share."""

import marshal
from array import array
from collections.abc import Iterable, Sequence
from typing import Any, SupportsIndex


class PackedList(Sequence[Any]):
    """List of plain values, each of which is made when it is asked for. A slice is a list.

    A value takes little more than the bytes of its text. As objects it would take five times as much, and every process
    that reads it would copy it.
    """

    def __init__(self, values: Iterable[Any]):
        self._content, self._ends = bytearray(), array("q", [0])
        for value in values:
            self._content += marshal.dumps(value)
            self._ends.append(len(self._content))

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, key: SupportsIndex | slice) -> Any:
        if isinstance(key, slice):
            return [self[position] for position in range(*key.indices(len(self)))]
        position = range(len(self))[key]
        return marshal.loads(self._content[self._ends[position] : self._ends[position + 1]])
