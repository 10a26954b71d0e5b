"""Files: complete or absent, and JSON lines."""

import json
import os
from contextlib import ExitStack
from types import SimpleNamespace

import pytest

from lumen.core.errors import Mistake
from lumen.core.files import atomic_path, read_jsonl, remove_drafts, write, write_json
from lumen.core.hashing import hash_file


def test_atomic_file_is_absent_until_it_is_complete(tmp_path):
    path = tmp_path / "new" / "file.txt"
    with pytest.raises(KeyboardInterrupt), atomic_path(path) as temporary:
        temporary.write_text("half")
        assert not path.exists() and temporary.parent == path.parent
        raise KeyboardInterrupt
    assert os.listdir(path.parent) == []
    write(path, "whole")
    with pytest.raises(KeyboardInterrupt), atomic_path(path):
        raise KeyboardInterrupt
    assert path.read_text() == "whole" and os.listdir(path.parent) == ["file.txt"]


def test_atomic_file_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(Mistake, match="file/inner could not be written: .*runs=DIR"):
        write(tmp_path / "file" / "inner", b"")


def test_jsonl_file_without_its_incomplete_last_line(tmp_path):
    path = tmp_path / "log.jsonl"
    assert read_jsonl(path) == []
    path.write_text('{"step": 0}\n{"step": 1}\n{"st')
    assert read_jsonl(path) == [{"step": 0}, {"step": 1}]


def test_json_file_is_sorted_and_hashed_by_content(tmp_path):
    for name, content in {"a": {"x": 1, "y": 2}, "b": {"y": 2, "x": 1}, "c": {"x": 2}}.items():
        write_json(tmp_path / name, content)
    first, second, third = (hash_file(tmp_path / name) for name in "abc")
    assert first == second != third and json.loads((tmp_path / "a").read_text()) == {"x": 1, "y": 2}


@pytest.mark.parametrize("names", [("gpu01", "gpu01"), ("gpu01", "gpu02"), ("a.very.long.name" * 4, "")])
def test_drafts_of_two_machines_differ(names, tmp_path, monkeypatch):
    """Process numbers may be equal, on two machines or in two containers that share a disk."""
    path, drafts, contents = tmp_path / ("x" * 250), [], [b"A" * 1000, b"B" * 1000]
    monkeypatch.setattr(os, "getpid", lambda: 7)
    with ExitStack() as stack:
        for name, content in zip(names, contents, strict=True):
            monkeypatch.setattr(os, "uname", lambda name=name: SimpleNamespace(nodename=name))
            drafts.append(stack.enter_context(atomic_path(path)))
            drafts[-1].write_bytes(content)
            assert name in drafts[-1].name
        assert drafts[0] != drafts[1] and [draft.read_bytes() for draft in drafts] == contents
    assert path.read_bytes() == contents[0] and os.listdir(tmp_path) == [path.name]


def test_drafts_of_killed_processes_are_removed(tmp_path):
    with atomic_path(tmp_path / "file") as draft:
        name = draft.name
        draft.touch()
    others = {".name.part", "lumen.part", ".lumen-notes"}
    for other in (*others, name):
        (tmp_path / other).touch()
        os.utime(tmp_path / other, (0, 0))
    (tmp_path / name.replace(".part", "0.part")).touch()  # another process is writing it
    write(tmp_path / "file", "")
    assert set(os.listdir(tmp_path)) == {"file", *others, name.replace(".part", "0.part")}
    remove_drafts(tmp_path)
    assert set(os.listdir(tmp_path)) == {"file", *others}
    remove_drafts(tmp_path / "missing")
