"""Trials: a run of a table with all that is measured of it, as commands that any process on any machine may take up."""

import ctypes
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Generator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

from lumen.core import locks
from lumen.core.errors import Mistake, RunBusy
from lumen.runs import directory as folder

MISTAKE, PREEMPTED, INTERRUPTED = 2, 75, 130  # exit codes of a command that running it once more would not change
# By these W&B's agent names its run: that is the training's, and what is measured anew is a run of its own.
AGENT = ("WANDB_RUN_ID", "WANDB_SWEEP_ID", "WANDB_SWEEP_PARAM_PATH")
SYSTEM = ctypes.CDLL(None) if sys.platform == "linux" else None


@dataclass
class Trial:
    """One run of a table: the commands that make it, and what has come of them."""

    name: str
    commands: dict[Path, str]  # in order, by the folder that each fills; the first trains
    steps: int
    images: int  # of one step
    state: Literal["waiting", "running", "done", "failed", "busy", "stopped", "sent"] = "waiting"
    failures: dict[str, str] = field(default_factory=dict)  # what each command that failed said last
    code: int = 0  # how the last command ended
    spared: str = ""  # what its training took from the cache, in its own words

    @property
    def home(self) -> Path:
        return next(iter(self.commands))

    @property
    def log(self) -> Path:
        """Where its commands write what they would write on a screen."""
        return self.home / "log.txt"

    def left(self) -> dict[Path, str]:
        """The commands that have not been run to their end."""
        return {place: words for place, words in self.commands.items() if folder.figures(place) is None}

    def processes(self, **environment: str) -> Generator[subprocess.Popen, None, None]:
        """Runs what is left, each command in a process of its own, which is yielded to be waited for.

        The trial is claimed meanwhile: where another launcher is at it, nothing is run, and its state says so. What
        fails is tried once more, unless it is a mistake; what could not be trained is not measured.
        """
        try:
            with locks.claim(self.home, ".trial"):
                self.state = "running"
                self.state = yield from self._run(environment)
        except RunBusy:
            self.state = "busy"
        except Mistake as mistake:
            self.state, self.failures = "failed", {self.commands[self.home]: str(mistake)}
        except GeneratorExit:
            self.state = "stopped"
            raise

    def _run(self, environment: dict[str, str]) -> Generator[subprocess.Popen, None, str]:
        for place, command in self.left().items():
            given = environment if place == self.home else environment | dict.fromkeys(AGENT)
            for _ in range(2):
                child = start(command, self.log, given)
                yield child
                self.code = child.returncode
                if self.code in (0, MISTAKE, PREEMPTED, INTERRUPTED):
                    break
            if self.code in (PREEMPTED, INTERRUPTED):
                return "stopped"
            if self.code == MISTAKE and _held(place):
                return "busy"  # somebody has typed the command by hand
            if place == self.home:
                self.spared = _last_of_cache(self.log)
            if self.code != 0:
                self.failures[command] = _last_words(self.log, self.code)
                if place == self.home:
                    break
        return "failed" if self.failures else "done"

    def report(self) -> str:
        """What failed and why, and how to repeat it."""
        said = [f"{why}\n  log: {self.log}\n  to repeat: {command}" for command, why in self.failures.items()]
        return "\n".join(f"{self.name} {self.state}: {each}" for each in said or [f"exit code {self.code}"])

    def progress(self) -> tuple[int, float | None, float | None]:
        """Steps made, the newest loss, and the seconds that training will still take, from the run's metrics.jsonl."""
        newest: dict[str, float] = {}
        for line in _tail(self.home / "metrics.jsonl").splitlines()[-50:]:
            with suppress(ValueError):  # a line cut in two
                newest |= json.loads(line)
        step, speed = int(newest.get("step", -1)) + 1, newest.get("train/images_per_s")
        return step, newest.get("train/loss"), (self.steps - step) * self.images / speed if speed else None


def start(command: str, log: Path, environment: dict[str, str | None]) -> subprocess.Popen:
    """Begins a command as a user would type it, its output going to the end of a file.

    Args:
        environment: what differs from this process's own; None takes a variable away.
    """
    # In a process group of its own, or Ctrl-C would reach it twice: from the terminal, and handed on by the launcher.
    # Lightning is to start the run's processes itself, and looks at this name to see that srun did not.
    env = os.environ | {"SLURM_JOB_NAME": "interactive"} | environment
    env = {name: value for name, value in env.items() if value is not None}
    with open(log, "a") as file:
        file.write(f"$ {command}\n")
        file.flush()
        # -P: a folder of the user's called experiments would be taken for LUMEN's.
        words = [sys.executable, "-P", "-m", *shlex.split(command)]
        return subprocess.Popen(
            words,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            process_group=0,
            preexec_fn=partial(_attended, os.getpid()) if SYSTEM else None,
        )


def _attended(launcher: int) -> None:
    """Has Linux tell this process to stop when its launcher ends, be it by SIGKILL: it saves, and is no orphan."""
    SYSTEM.prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
    if os.getppid() != launcher:  # which has ended meanwhile
        signal.raise_signal(signal.SIGTERM)


def _held(place: Path) -> bool:
    try:
        with locks.claim(place):
            return False
    except RunBusy:
        return True


def _last_words(log: Path, code: int) -> str:
    """The error that the last command in a log ended with, or its last line, or the signal that ended it."""
    lines = [line.strip() for line in re.split(r"[\r\n]+", _tail(log).rpartition("\n$ ")[2]) if line.strip()]
    errors = [line for line in lines if re.match(r"lumen: |[\w.]+(Error|Exception|Exit)\b", line)]
    if code < 0:
        return f"ended by signal {-code} ({signal.strsignal(-code)})"
    return [f"exit code {code}", *lines[-1:], *errors[-1:]][-1]


def _last_of_cache(log: Path) -> str:
    """What a run said last of its cache, or nothing."""
    said = re.findall(r"[\r\n]cache: ([^\r\n]+)", _tail(log, 2**26))
    return said[-1] if said else ""


def _tail(path: Path, size: int = 20000) -> str:
    """The end of a file that may not be there yet."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, path.stat().st_size - size))
            return "\n" + file.read().decode(errors="replace")
    except OSError:
        return ""
