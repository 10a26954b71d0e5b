"""kill -9 wherever a run stands: the command repeated ends as if nothing had been."""

import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable

import pytest

from lumen.core.errors import BadCheckpoint
from lumen.training import checkpoint_io as checkpoints

pytestmark = pytest.mark.long

KILLS = 20
MOMENTS = {"clock": 3.0, "file": 40, "byte": 2000}  # up to how many seconds, changes of files, writes within one


def at_change(count: int) -> Callable[[int], None]:
    """Kills a run just before it opens, renames or removes a file of its own for the count-th time."""

    def begin(rank: int) -> None:
        left, me = count, os.getpid()

        def watch(event: str, words: tuple) -> None:
            nonlocal left
            writes = event in ("os.rename", "os.remove") or (event == "open" and set("wa+") & set(words[1] or ""))
            if writes and "runs/" in str(words[0]) and os.getpid() == me:  # not in a process that it has forked
                left -= 1
                if left == 0:
                    os.kill(me, signal.SIGKILL)

        sys.addaudithook(watch)

    return begin


def at_write(count: int) -> Callable[[int], None]:
    """Kills a run in the middle of a checkpoint: when the count-th piece of one is written."""

    def begin(rank: int) -> None:
        left, write = count, checkpoints._Hashed.write

        def watched(self, data):
            nonlocal left
            left -= 1
            if left == 0:
                self.file.write(bytes(data)[: len(data) // 2])
                self.file.flush()
                os.kill(os.getpid(), signal.SIGKILL)
            return write(self, data)

        checkpoints._Hashed.write = watched

    return begin


def good(folder) -> list[int]:
    """The steps of the checkpoints that are what was written."""
    steps = []
    for path in checkpoints.found(folder):
        try:
            checkpoints.verify(path)
            checkpoints.read(path)
            steps.append(checkpoints.step_of(path))
        except BadCheckpoint:
            pass
    return steps


def test_a_run_is_killed_at_twenty_random_points(begin, made, result, reference, place, capsys):
    draw = random.Random(0)
    kills, before = [], []
    while True:
        moment = ("clock", "file", "byte")[len(kills) % 3]
        when = draw.uniform(0, MOMENTS[moment])
        how = {"clock": {}, "file": {"first": at_change(round(when) + 1)}, "byte": {"first": at_write(round(when) + 1)}}
        run = begin(**(how[moment] if len(kills) < KILLS else {}))
        if moment == "clock" and len(kills) < KILLS:
            time.sleep(when)
            run.kill(0)
        (code,) = run.wait()
        if code == 0:
            assert result() == reference()
            if len(kills) >= KILLS:
                break
            shutil.rmtree(place / "runs")
            before = []
            continue
        assert code == -signal.SIGKILL, run.said()
        kills.append(f"{moment} {when:.1f}")
        if (place / "runs").exists():
            now = good(made() / "checkpoints")
            assert len(now) >= len(before) and max(now, default=0) >= max(before, default=0), (before, now)
            before = now
    with capsys.disabled():
        print("killed at", ", ".join(kills))
