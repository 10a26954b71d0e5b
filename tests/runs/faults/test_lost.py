"""Runs that are killed, interrupted or short of memory: no process lives on, and one sentence says why a run ended."""

import ctypes
import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch

from datamodules.coco_stuff import CocoStuff
from lumen.config.experiment import load
from lumen.core.errors import Mistake
from lumen.core.interfaces import Batch
from lumen.runs.data import build_data

CRASHES = (-signal.SIGSEGV, -signal.SIGABRT)
REFUSED = 77  # exit code of a process that may not mount a disk
SECONDS = 600  # for all processes of a run to end, also on a busy machine


def start_program(command: list[str], *flags: str) -> subprocess.Popen:
    """Start a command as a terminal does, in a process group of its own."""
    words = [sys.executable, "-P", "-m", "lumen", *command, *flags]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, process_group=0)


def read_until(run: subprocess.Popen, words: bytes) -> bytes:
    """Return a run's output up to a line with these words."""
    output = b""
    for line in run.stdout:
        output += line
        if words in line:
            return output
    raise AssertionError(output.decode())


def end(run: subprocess.Popen) -> str:
    """Return what follows in the output, once all that hold it have ended: the run and what it started."""
    try:
        return run.communicate(timeout=SECONDS)[0].decode()
    except subprocess.TimeoutExpired:
        os.killpg(run.pid, signal.SIGKILL)
        raise


@pytest.mark.long
@pytest.mark.parametrize("seconds", [0, 0.5, 2])
def test_ranks_and_workers_end_with_a_run_that_is_killed(seconds, short_command, forking, workdir):
    """Rank 0 is killed while rank 1 begins, while they meet, and while they train."""
    run = start_program(short_command("workers=1", "steps=500", world_size=2))
    read_until(run, b" starts: ")
    time.sleep(seconds)
    run.kill()
    assert "Traceback" not in end(run)
    assert run.returncode == -signal.SIGKILL


@pytest.mark.long
def test_training_of_a_certificate_ends_with_its_command(tiny, forking, workdir):
    run = start_program(["certify", "scenes", *tiny, "validation=2", "steps=600", "workers=1"])
    read_until(run, b"whole: to the end")
    time.sleep(1)
    run.kill()
    end(run)


# Moments in seconds after the command begins, and after it says that it starts to train.
MOMENTS = [(b"", seconds) for seconds in (1, 2, 4, 6)] + [(b" starts: ", seconds) for seconds in (0, 1, 3, 6, 12, 24)]


@pytest.mark.slow
@pytest.mark.parametrize(("line", "seconds"), MOMENTS)
def test_ctrl_c_at_ten_moments_leaves_no_process(line, seconds, short_command, workdir):
    """While libraries are imported, while two ranks with a worker each meet, and while they train."""
    run = start_program(short_command("workers=1", "steps=5000", world_size=2))
    if line:
        read_until(run, line)
    time.sleep(seconds)
    os.killpg(run.pid, signal.SIGINT)
    output = end(run)
    assert run.returncode == 130 and "Traceback" not in output and "lumen: interrupted" in output, output


def limit_memory(more: int) -> Callable[[int], None]:
    """Return a function that lets a process map so many bytes more than it does."""

    def limit(rank: int) -> None:
        mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (mapped + more, mapped + more))

    return limit


@pytest.mark.slow
@pytest.mark.parametrize("more", [4, 16, 64, 128], ids=lambda more: f"{more} MiB")
def test_run_without_memory_ends_in_a_sentence(more, start_run, workdir):
    """Libraries in C++ may crash instead. Python itself waits without end for a thread that has no memory to start."""
    run = start_run("size=64", prepare=limit_memory(more << 20))
    (code,) = run.wait()
    last = run.output().splitlines()[-1]
    assert (code == 2 and re.match("lumen: memory ran short|lumen: .*could not be written", last)) or code in CRASHES
    assert "Traceback" not in run.output() and not list(workdir.rglob("*.part"))
    assert start_run("size=64").wait() == [0]


def limit_shared_memory(size: str) -> Callable[[int], None]:
    """Return a function that gives a process a /dev/shm of its own, as a container has one."""

    def limit(rank: int) -> None:
        new_mounts = 0x20000  # CLONE_NEWNS of unshare(2)
        commands = ["mount --make-rprivate /", f"mount -t tmpfs -o size={size} lumen /dev/shm"]
        refused = ctypes.CDLL(None).unshare(new_mounts)
        if refused or any(subprocess.run(command.split()).returncode for command in commands):
            os._exit(REFUSED)

    return limit


def read_batches(root: Path, workers: int) -> list[Batch]:
    flags = [f"data.root={root}", "size=512", "batch=4", "steps=8", f"workers={workers}"]
    return list(build_data(load("coco_stuff", flags)).train_dataloader())


@pytest.mark.parametrize(
    ("size", "outcome"),
    [
        pytest.param("64m", "equal", marks=pytest.mark.long),
        pytest.param("256k", "equal", marks=pytest.mark.slow),
        pytest.param("4k", "refused", marks=pytest.mark.slow),
    ],
)
def test_four_workers_with_little_shared_memory_yield_the_same_batches(size, outcome, tmp_path):
    """8 batches of 11.5 MB in docker's 64 MB, and in less; one page is too little for the semaphores of workers."""

    CocoStuff.fake(tmp_path / "coco")

    def read() -> None:
        limit_shared_memory(size)(0)
        try:
            pairs = zip(read_batches(tmp_path / "coco", 0), read_batches(tmp_path / "coco", 4), strict=True)
            equal = all(torch.equal(a.image, b.image) and torch.equal(a.mask, b.mask) for a, b in pairs)
            (tmp_path / "outcome").write_text("equal" if equal else "different")
        except Mistake as mistake:
            (tmp_path / "outcome").write_text("refused" if "/dev/shm" in str(mistake) else str(mistake))

    process = get_context("fork").Process(target=read)
    process.start()
    process.join(SECONDS)
    if process.exitcode == REFUSED:
        pytest.skip("this system does not let the user mount a disk")
    assert process.exitcode == 0 and (tmp_path / "outcome").read_text() == outcome


@pytest.mark.slow
def test_memory_and_open_files_do_not_grow_from_step_100_to_step_2000(start_run, before_step, workdir, capsys):
    """With validations and checkpoints before both."""

    def measure() -> None:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        num_files = len(os.listdir("/proc/self/fd"))
        with open("growth", "a") as file:
            file.write(f"{pages * resource.getpagesize() >> 10} {num_files}\n")

    every = ["every.validate=50", "every.checkpoint=50", "every.log=10", "workers=1"]
    run = start_run("steps=2002", *every, callbacks=[before_step(step, measure) for step in (101, 1001, 2001)])
    assert run.wait(1200) == [0], run.output()
    lines = [list(map(int, line.split())) for line in Path("growth").read_text().splitlines()]
    with capsys.disabled():
        print("KiB and open files before steps 101, 1001 and 2001:", lines)
    assert lines[2][1] == lines[0][1] and lines[2][0] < 1.01 * lines[0][0]
