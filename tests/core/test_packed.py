"""Packed lists: values equal those that were given, whatever the position, and records equal theirs."""

from pathlib import Path

import pytest

from lumen.core.packed import PackedList
from lumen.data.index import ImageRecord
from lumen.data.records import ImageRecords

VALUES = ["a", "", "ä\ud800\0", ("b", 1), [], {"c": ("d",)}, None]


def test_packed_list_equals_the_list():
    packed = PackedList(iter(VALUES))
    assert [*packed] == VALUES == packed[:] and len(packed) == len(VALUES)
    assert packed[-1] is None and packed[1:-1:2] == VALUES[1:-1:2] and packed[5:2] == []
    for position in (len(VALUES), -len(VALUES) - 1):
        with pytest.raises(IndexError):
            packed[position]


def test_packed_records_equal_the_records():
    files = {"image": Path("/a/ü\udcff.jpg"), "mask": Path("b.png")}
    records = [ImageRecord("ü", files, ("a caption", "\0")), ImageRecord("2")]
    packed = ImageRecords(records)
    assert [*packed] == records == packed[:] and packed[-1] == records[-1]
    assert [*packed[0].files] == [*files] and packed[1].captions == ()
