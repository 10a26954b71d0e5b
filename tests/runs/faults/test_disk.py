"""A disk that is full, or that may not be written: an error that says so, nothing lost of what was there."""

import os
import resource
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from lumen.training.checkpoint_io import found, step_of, verify

pytestmark = pytest.mark.long


def mount(*words: str) -> bool:
    return subprocess.run(["mount", *words], capture_output=True).returncode == 0


@pytest.fixture
def disk(place) -> Iterator[Path]:
    """./runs as a disk of its own, of 100 MB."""
    disk = place / "runs"
    disk.mkdir()
    if not mount("-t", "tmpfs", "-o", "size=100m", "lumen", str(disk)):
        pytest.skip("this system lets nobody mount a disk")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def fill(disk: Path) -> None:
    """Leaves room for some text and half of a checkpoint."""
    left = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
    (disk / "ballast").write_bytes(b"\0" * (left - 12_000_000))


def brim(disk: Path) -> None:
    """Leaves room for nothing at all."""
    with open(disk / "ballast", "wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1):
            try:
                while True:
                    file.write(b"\0" * size)
            except OSError:
                pass


@pytest.mark.parametrize("full", [fill, brim], ids=lambda full: full.__name__)
def test_the_disk_is_full(full, disk, begin, at, made, result, reference):
    run = begin(watchers=[at(5, lambda: full(disk))])
    assert run.wait() == [2]
    assert "step00000006.ckpt could not be written: " in run.said() and "make room" in run.said()
    kept = found(made() / "checkpoints")
    assert [step_of(path) for path in kept] == [4, 2]
    verify(kept[0])
    assert list(made().rglob("*.part")) == []
    (disk / "ballast").unlink()
    assert begin().wait() == [0]
    assert result() == reference()


def test_a_checkpoint_is_larger_than_a_file_may_be(begin, at, made, result, reference):
    limit = 12_000_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    run = begin(watchers=[at(5, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit))])
    assert run.wait() == [2]
    assert "step00000006.ckpt could not be written: " in run.said()
    assert [step_of(path) for path in found(made() / "checkpoints")] == [4, 2]
    assert begin().wait() == [0]
    assert result() == reference()


def test_the_disk_becomes_read_only(disk, begin, at, made, result, reference):
    run = begin(watchers=[at(5, lambda: mount("-o", "remount,ro", str(disk)))])
    assert run.wait() == [2]
    assert "could not be written: Read-only file system" in run.said()
    run = begin()
    assert run.wait() == [2]
    assert "cannot be written: Read-only file system; choose another folder with runs=DIR" in run.said()
    assert [step_of(path) for path in found(made() / "checkpoints")] == [4, 2]
    assert mount("-o", "remount,rw", str(disk))
    assert begin().wait() == [0]
    assert result() == reference()


def test_a_folder_may_not_be_written(begin, at, made, place, result, reference):
    """A file in the place of the checkpoints' folder stops even those whom no permission binds."""
    (place / "runs").write_text("")
    run = begin()
    assert run.wait() == [2]
    assert "runs/scenes/" in run.said() and "cannot be written: Not a directory" in run.said()
    (place / "runs").unlink()
    run = begin(watchers=[at(1, lambda: (made() / "checkpoints").write_text(""))])
    assert run.wait() == [2]
    assert "step00000002.ckpt could not be written: " in run.said()
    (made() / "checkpoints").unlink()
    assert begin().wait() == [0]
    assert result() == reference()
