"""Trials that are over in no time: a script that does what its arguments say."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lumen.sweeps import table as tables
from lumen.sweeps.trial import Trial

QUICK = """
import json, os, pathlib, signal, sys, time
place, *words = sys.argv[1:]
place = pathlib.Path(place)
place.mkdir(parents=True, exist_ok=True)
tries = place / "tries"
count = len(tries.read_text()) if tries.exists() else 0
with open(tries, "a") as file:
    file.write("x")
with open("order", "a") as file:
    file.write(f"+{place.name} ")
    file.flush()
    word = words[min(count, len(words) - 1)]
    if word == "saves":  # until a signal comes; then says so, as lumen train does
        def save(number, _):
            (place / "saved").write_text(signal.Signals(number).name)
            sys.exit(130 if number == signal.SIGINT else 75)

        for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT):
            signal.signal(number, save)
        (place / "launcher").write_text(str(os.getppid()))
        (place / "ready").touch()
        time.sleep(60)
        sys.exit(3)
    if word == "meets":  # ends when another trial has begun
        while len(pathlib.Path("order").read_text().split("+")) < 3:
            time.sleep(0.02)
    if word == "keeps":
        print("cache: 13.6 MB are made in about 6 s; stopped, it goes on.\\rEpoch 0\\ncache: which saves about 47 s.")
    if word in ("done", "meets", "keeps"):
        figures = {"share": os.environ.get("OMP_NUM_THREADS"), "run": os.environ.get("WANDB_RUN_ID")}
        (place / "metrics.json").write_text(json.dumps(figures))
        sys.exit(0)
    print("working\\rworking\\rRuntimeError: out of luck" if word == "1" else "lumen: nothing is called so.")
    print("a line after it")
    sys.exit(int(word))
"""


@pytest.fixture(scope="session")
def scripts(tmp_path_factory):
    """PYTHONPATH as it must be for `python -m quick`."""
    folder = tmp_path_factory.mktemp("scripts")
    (folder / "quick.py").write_text(QUICK)
    return os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])


@pytest.fixture
def quick(place, scripts, monkeypatch):
    """Makes a trial whose first command ends as each word says, try by try."""
    monkeypatch.setenv("PYTHONPATH", scripts)

    def make(name: str, *words: str, then: str = "") -> Trial:
        home = Path("runs") / name
        commands = {home: f"quick {home} {' '.join(words)}"}
        commands |= {home / "eval" / f"{name}-anew": f"quick {home / 'eval' / f'{name}-anew'} {then}"} if then else {}
        return Trial(name, commands, 4, 2)

    return make


@pytest.fixture
def wait_for():
    """Waits until a look is not in vain, and gives what was seen."""

    def wait(look: Callable[[], Any]) -> Any:
        for _ in range(12000):
            if seen := look():
                return seen
            time.sleep(0.05)
        raise AssertionError("waited for in vain")

    return wait


@pytest.fixture
def table(place):
    """A table that launchers ask for a config; its rows are not run."""
    return tables.read("table1", base="scenes", flags=["accelerator=cpu", "wandb=disabled"])
