"""Files and locks: a file is complete or absent, and a directory has one writer."""

import json
import os
import signal
import time

import pytest

from lumen.core.errors import Mistake, RunBusy
from lumen.core.files import atomic_path, read_jsonl, write, write_json
from lumen.core.hashing import hash_file
from lumen.core.locks import lock_directory


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


def test_lock_has_one_holder(tmp_path):
    run = tmp_path / "run"
    with lock_directory(run), lock_directory(run, ".other"), pytest.raises(RunBusy, match="in use"):
        lock_directory(run).__enter__()
    with lock_directory(run):
        pass


def test_lock_is_released_by_a_forked_worker(tmp_path):
    with lock_directory(tmp_path):
        if (worker := os.fork()) == 0:
            signal.pause()
            os._exit(0)
    try:
        time.sleep(0.1)
        with lock_directory(tmp_path):  # although the worker is alive
            pass
    finally:
        os.kill(worker, signal.SIGKILL)
        os.waitpid(worker, 0)
