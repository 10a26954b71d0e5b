"""Kills at random moments: the repeated command ends with the bits of an uninterrupted run."""

import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from lumen.core.errors import BadCheckpoint
from lumen.training import checkpoint_io

KILLS = 20
# The latest moment of a kill: in seconds, in changes of files, and in writes within a checkpoint.
LATEST = {"clock": 2.0, "file": 40, "byte": 700}


def kill_at_file_change(count: int) -> Callable[[int], None]:
    """Kill a run just before it opens, renames or removes a file of its own for the count-th time."""

    def prepare(rank: int) -> None:
        remaining, run_pid = count, os.getpid()

        def audit(event: str, args: tuple) -> None:
            nonlocal remaining
            writes = event in ("os.rename", "os.remove") or (event == "open" and set("wa+") & set(args[1] or ""))
            if writes and "runs/" in str(args[0]) and os.getpid() == run_pid:  # not in a process that it has forked
                remaining -= 1
                if remaining == 0:
                    os.kill(run_pid, signal.SIGKILL)

        sys.addaudithook(audit)

    return prepare


def kill_at_checkpoint_write(count: int) -> Callable[[int], None]:
    """Kill a run in the middle of the count-th write to a checkpoint."""

    def prepare(rank: int) -> None:
        remaining, write = count, checkpoint_io._HashingFile.write

        def write_or_die(self, data):
            nonlocal remaining
            remaining -= 1
            if remaining == 0:
                self.file.write(bytes(data)[: len(data) // 2])
                self.file.flush()
                os.kill(os.getpid(), signal.SIGKILL)
            return write(self, data)

        checkpoint_io._HashingFile.write = write_or_die

    return prepare


def intact_steps(directory: Path) -> list[int]:
    """Return the steps of the checkpoints that are what was written."""
    steps = []
    for path in checkpoint_io.list_checkpoints(directory):
        try:
            checkpoint_io.verify(path)
            checkpoint_io.read(path)
            steps.append(checkpoint_io.step_of(path))
        except BadCheckpoint:
            pass
    return steps


@pytest.mark.long
def test_killed_run_resumes_from_twenty_random_moments(start_run, run_dir, hash_run, reference_hashes, workdir, capsys):
    kill_and_resume(start_run, run_dir, hash_run, reference_hashes(), workdir, capsys)


@pytest.mark.slow
@pytest.mark.parametrize("flag", ["backbone=sd", "cache=always", "cache=never"])
def test_killed_run_with_another_cache_or_backbone_resumes(flag, start_run, run_dir, hash_run, workdir, capsys):
    run = start_run(flag)
    assert run.wait() == [0], run.output()
    expected = hash_run()
    for directory in ("runs", "records"):
        shutil.rmtree(workdir / directory)
    kill_and_resume(partial(start_run, flag), run_dir, hash_run, expected, workdir, capsys)


def kill_and_resume(start_run, run_dir, hash_run, expected: dict[str, str], workdir: Path, capsys) -> None:
    """Kill a run at random moments, and repeat its command until it ends with the expected bits."""
    generator = random.Random(0)
    kills, before = [], []
    while True:
        kind = ("clock", "file", "byte")[len(kills) % 3]
        moment = generator.uniform(0, LATEST[kind])
        prepare = {"file": kill_at_file_change, "byte": kill_at_checkpoint_write}
        is_killed = len(kills) < KILLS
        options = {"prepare": prepare[kind](round(moment) + 1)} if is_killed and kind in prepare else {}
        run = start_run(**options)
        if is_killed and kind == "clock":
            time.sleep(moment)
            run.kill(0)
        (code,) = run.wait()
        if code == 0:
            assert hash_run() == expected
            if not is_killed:
                break
            shutil.rmtree(workdir / "runs")
            before = []
            continue
        assert code == -signal.SIGKILL, run.output()
        kills.append(f"{kind} {moment:.1f}")
        if (workdir / "runs").exists():
            steps = intact_steps(run_dir() / "checkpoints")
            assert len(steps) >= len(before) and max(steps, default=0) >= max(before, default=0), (before, steps)
            before = steps
    with capsys.disabled():
        print("killed at", ", ".join(kills))
