"""Trials that are over in no time: a script that does what its arguments say."""

import os
from pathlib import Path

import pytest

from lumen import table as tables
from lumen.trial import Trial

QUICK = """
import json, os, pathlib, signal, sys, time
place, *words = sys.argv[1:]
place = pathlib.Path(place)
place.mkdir(parents=True, exist_ok=True)
tries = place / "tries"
count = len(tries.read_text()) if tries.exists() else 0
with open(tries, "a") as file:
    file.write("x")
with open(pathlib.Path(os.environ["ORDER"]), "a") as file:
    file.write(f"+{place.name} ")
    file.flush()
    word = words[min(count, len(words) - 1)]
    if word == "saves":  # until a signal comes; then says so, as lumen train does
        signal.signal(signal.SIGUSR1, lambda *_: sys.exit(75))
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
        signal.signal(signal.SIGINT, lambda *_: sys.exit(130))
        (place / "launcher").write_text(str(os.getppid()))
        (place / "ready").touch()
        time.sleep(60)
    if word == "meets":  # ends when another trial has begun
        while len(pathlib.Path(os.environ["ORDER"]).read_text().split("+")) < 3:
            time.sleep(0.02)
    if word == "done" or word == "meets":
        (place / "metrics.json").write_text(json.dumps({"share": os.environ.get("OMP_NUM_THREADS")}))
        sys.exit(0)
    print("working\\rworking\\rRuntimeError: out of luck" if word == "1" else "lumen: nothing is called so.")
    print("a line after it")
    sys.exit(int(word))
"""


@pytest.fixture
def quick(place, monkeypatch):
    """Makes a trial whose first command ends as each word says, try by try."""
    (place / "quick.py").write_text(QUICK)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(place), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("ORDER", str(place / "order"))

    def make(name: str, *words: str, then: str = "") -> Trial:
        home = Path("runs") / name
        commands = {home: f"quick {home} {' '.join(words)}"}
        commands |= {home / "eval" / f"{name}-anew": f"quick {home / 'eval' / f'{name}-anew'} {then}"} if then else {}
        return Trial(name, commands, 4, 2)

    return make


@pytest.fixture
def table(place):
    """A table that launchers ask for a config; its rows are not run."""
    return tables.read("table1", base="scenes", flags=["accelerator=cpu", "wandb=disabled"])
