"""A disk that is full or read-only: the run names the problem and keeps its last good checkpoint."""

import os
import resource
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from lumen.training.checkpoint_io import list_checkpoints, step_of, verify

pytestmark = pytest.mark.long


def checkpoint_steps(run: Path) -> list[int]:
    return [step_of(path) for path in list_checkpoints(run / "checkpoints")]


def mount(*arguments: str) -> bool:
    return subprocess.run(["mount", *arguments], capture_output=True).returncode == 0


@pytest.fixture
def disk(workdir) -> Iterator[Path]:
    """A disk of 40 MB at ./runs."""
    disk = workdir / "runs"
    disk.mkdir()
    if not mount("-t", "tmpfs", "-o", "size=40m", "lumen", str(disk)):
        pytest.skip("this system does not let the user mount a disk")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def half_a_checkpoint(directory: Path) -> int:
    """Return half of the bytes of a checkpoint of a run."""
    return next(directory.rglob("*.ckpt")).stat().st_size // 2


def fill_but_half_a_checkpoint(disk: Path) -> None:
    free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
    (disk / "ballast").write_bytes(b"\0" * (free - half_a_checkpoint(disk)))


def fill_to_the_last_byte(disk: Path) -> None:
    with open(disk / "ballast", "wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1):
            try:
                while True:
                    file.write(b"\0" * size)
            except OSError:
                pass


@pytest.mark.parametrize("fill", [fill_but_half_a_checkpoint, fill_to_the_last_byte], ids=lambda fill: fill.__name__)
def test_full_disk_ends_a_run_without_loss(fill, disk, start_run, before_step, run_dir, hash_run, reference_hashes):
    run = start_run(callbacks=[before_step(5, lambda: fill(disk))])
    assert run.wait() == [2]
    assert "step00000006.ckpt" in run.output() and "make room" in run.output()
    assert checkpoint_steps(run_dir()) == [4, 2]
    verify(list_checkpoints(run_dir() / "checkpoints")[0])
    assert list(run_dir().rglob("*.part")) == []
    (disk / "ballast").unlink()
    assert start_run().wait() == [0]
    assert hash_run() == reference_hashes()


def test_checkpoint_beyond_the_limit_of_a_file_ends_a_run_without_loss(
    start_run, before_step, run_dir, hash_run, reference_hashes
):
    def limit() -> None:
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        resource.setrlimit(resource.RLIMIT_FSIZE, (half_a_checkpoint(run_dir()), hard))

    run = start_run(callbacks=[before_step(5, limit)])
    assert run.wait() == [2]
    assert "step00000006.ckpt" in run.output()
    assert checkpoint_steps(run_dir()) == [4, 2]
    assert start_run().wait() == [0]
    assert hash_run() == reference_hashes()


def test_read_only_disk_ends_a_run_without_loss(disk, start_run, before_step, run_dir, hash_run, reference_hashes):
    run = start_run(callbacks=[before_step(5, lambda: mount("-o", "remount,ro", str(disk)))])
    assert run.wait() == [2]
    assert "Read-only file system" in run.output()
    run = start_run()
    assert run.wait() == [2]
    assert "Read-only file system" in run.output() and "runs=" in run.output()
    assert checkpoint_steps(run_dir()) == [4, 2]
    assert mount("-o", "remount,rw", str(disk))
    assert start_run().wait() == [0]
    assert hash_run() == reference_hashes()


def test_directory_that_cannot_be_created_is_named(
    start_run, before_step, run_dir, workdir, hash_run, reference_hashes
):
    """A file in place of the directory stops even a user whom no permission binds."""
    (workdir / "runs").write_text("")
    run = start_run()
    assert run.wait() == [2]
    assert "runs/scenes/" in run.output() and "Not a directory" in run.output()
    (workdir / "runs").unlink()
    run = start_run(callbacks=[before_step(1, lambda: (run_dir() / "checkpoints").write_text(""))])
    assert run.wait() == [2]
    assert "step00000002.ckpt" in run.output()
    (run_dir() / "checkpoints").unlink()
    assert start_run().wait() == [0]
    assert hash_run() == reference_hashes()
