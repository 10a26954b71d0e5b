"""Trials that end at once: their command is a script that does what its arguments say."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lumen.sweeps.table_reader import read_table
from lumen.sweeps.trial import Length, Trial

QUICK = """
import json, os, pathlib, signal, sys, time
directory, *actions = sys.argv[1:]
directory = pathlib.Path(directory)
directory.mkdir(parents=True, exist_ok=True)
attempts = directory / "attempts"
count = len(attempts.read_text()) if attempts.exists() else 0
with open(attempts, "a") as file:
    file.write("x")
with open("order", "a") as file:
    file.write(f"+{directory.name} ")
action = actions[min(count, len(actions) - 1)]
if action == "save_on_signal":  # as lumen train does
    def save(number, _):
        (directory / "saved").write_text(signal.Signals(number).name)
        sys.exit(130 if number == signal.SIGINT else 75)

    for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT):
        signal.signal(number, save)
    (directory / "launcher").write_text(str(os.getppid()))
    (directory / "ready").touch()
    time.sleep(60)
    sys.exit(3)
if action == "wait_for_another":  # until two trials have started
    while len(pathlib.Path("order").read_text().split("+")) < 3:
        time.sleep(0.02)
if action in ("finish", "wait_for_another"):
    values = {"share": os.environ.get("OMP_NUM_THREADS"), "run": os.environ.get("WANDB_RUN_ID"), "val/loss": 1.0}
    (directory / "metrics.json").write_text(json.dumps(values))
    sys.exit(0)
print("working\\rworking\\rRuntimeError: out of luck" if action == "1" else "lumen: no such name.")
print("a line after it")
sys.exit(int(action))
"""


@pytest.fixture(scope="session")
def scripts(tmp_path_factory):
    """PYTHONPATH under which `python -m quick` runs the script."""
    directory = tmp_path_factory.mktemp("scripts")
    (directory / "quick.py").write_text(QUICK)
    return os.pathsep.join([str(directory), os.environ.get("PYTHONPATH", "")])


@pytest.fixture
def quick(workdir, scripts, monkeypatch):
    """Function that makes a trial; each attempt of its first command performs the next action."""
    monkeypatch.setenv("PYTHONPATH", scripts)

    def make(name: str, *actions: str, evaluation: str = "") -> Trial:
        run_dir = Path("runs") / name
        eval_dir = run_dir / "eval" / f"{name}-eval"
        commands = {run_dir: f"quick {run_dir} {' '.join(actions)}"}
        commands |= {eval_dir: f"quick {eval_dir} {evaluation}"} if evaluation else {}
        return Trial(name, commands, {run_dir: Length(4, 2)}, {eval_dir: run_dir})

    return make


@pytest.fixture
def wait_for():
    """Function that calls another one until its result is true, and returns it."""

    def wait(condition: Callable[[], Any]) -> Any:
        for _ in range(12000):
            if result := condition():
                return result
            time.sleep(0.05)
        raise AssertionError("the condition did not become true")

    return wait


@pytest.fixture
def table(workdir):
    """A table whose config launchers read; its rows are not run."""
    return read_table("table1", base="scenes", overrides=["accelerator=cpu", "wandb=disabled"])
