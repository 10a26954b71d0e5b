"""Trials: runs of a table, each with its commands, which a process on any machine may take up."""

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Generator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from lumen.core import locks
from lumen.core.console import LOG_NAME, log_header
from lumen.core.errors import Mistake, RunBusy
from lumen.core.guards import verify_place
from lumen.core.lifetime import signal_at_end_of_parent
from lumen.core.signals import SIGNAL_EXIT_CODE
from lumen.runs.directory import is_finished, load_results
from lumen.runs.tails import is_error, read_last_output, read_newest_values

# Exit codes of a command that would end in the same way if it were repeated at once; SIGNAL_EXIT_CODE is another.
EXIT_MISTAKE, EXIT_INTERRUPTED = 2, 130
# Environment variables by which an agent of W&B names its run: the training. An evaluation is a run of its own.
AGENT_VARIABLES = ("WANDB_RUN_ID", "WANDB_SWEEP_ID", "WANDB_SWEEP_PARAM_PATH")
ATTEMPTS = 2  # of a command that fails
State = Literal["waiting", "running", "done", "failed", "busy", "stopped", "submitted"]


class Length(NamedTuple):
    """Length of a training: its optimiser steps, and the images of each, on all devices together."""

    steps: int
    images_per_step: int


@dataclass
class Trial:
    """Chain of runs of a table: the commands that make it, and their outcome.

    Attributes:
        commands: Commands in order, by the directory that each one fills; the first one trains.
        lengths: Length of each training by its directory, in the same order.
        needs: Directory that must be finished before a command, by the command's own directory.
        tags: Tags of its runs on W&B: the table and the rows.
        failures: Error message of each command that failed.
        exit_code: Exit code of the last command.
    """

    name: str
    commands: dict[Path, str]
    lengths: dict[Path, Length]
    needs: dict[Path, Path] = field(default_factory=dict)
    tags: list[str] = field(default_factory=list)
    state: State = "waiting"
    failures: dict[str, str] = field(default_factory=dict)
    exit_code: int = 0

    @property
    def run_dir(self) -> Path:
        """Directory of the first training."""
        return next(iter(self.commands))

    @property
    def current_run(self) -> Path:
        """Directory of the training that is under way, or will be next; the last one, once all are finished."""
        return next((path for path in self.lengths if not is_finished(path)), [*self.lengths][-1])

    def log(self, directory: Path) -> Path:
        """Return the file with the output of the command that fills a directory: the log of its training."""
        training = directory if directory in self.lengths else self.needs.get(directory, self.run_dir)
        return training / LOG_NAME

    def pending_commands(self) -> dict[Path, str]:
        """Return the commands that have not finished, by directory."""
        return {path: command for path, command in self.commands.items() if not is_finished(path)}

    def find_problems(self) -> list[str]:
        """Return sentences about damaged results; the commands that write them are pending."""
        problems = []
        for path in self.commands:
            try:
                load_results(path)
            except Mistake as mistake:
                problems.append(str(mistake))
        return problems

    def run(self, **environment: str) -> Generator[subprocess.Popen, None, None]:
        """Run the pending commands, each in a process of its own, and yield each process to be waited for.

        The trial is locked meanwhile. If another launcher holds it, nothing runs and the state becomes "busy". A
        command that fails is repeated once, unless the user made a mistake. Commands that need what a failed one should
        have made do not run.
        """
        try:
            with locks.lock_directory(self.run_dir, ".trial"):
                self.state = "running"
                self.state = yield from self._run_commands(environment)
        except RunBusy:
            self.state = "busy"
        except Mistake as mistake:
            self.state, self.failures = "failed", {self.commands[self.run_dir]: str(mistake)}
        except GeneratorExit:
            self.state = "stopped"
            raise

    def _run_commands(self, environment: dict[str, str]) -> Generator[subprocess.Popen, None, State]:
        """Run the pending commands and return the state that the trial ends in."""
        tags = [*os.environ.get("WANDB_TAGS", "").split(","), *(tag.replace(",", " ") for tag in self.tags)]
        environment = environment | {"WANDB_TAGS": ",".join(filter(None, tags))}
        failed: set[Path] = set()
        for directory, command in self.pending_commands().items():
            if self.needs.get(directory) in failed:
                failed.add(directory)
                continue
            others = {} if directory == self.run_dir else dict.fromkeys(AGENT_VARIABLES)
            for _ in range(ATTEMPTS):
                process = start(command, self.log(directory), environment | others)
                yield process
                self.exit_code = process.returncode
                if self.exit_code in (0, EXIT_MISTAKE, SIGNAL_EXIT_CODE, EXIT_INTERRUPTED):
                    break
            if self.exit_code in (SIGNAL_EXIT_CODE, EXIT_INTERRUPTED):
                return "stopped"
            if self.exit_code == EXIT_MISTAKE and locks.is_locked(directory):
                return "busy"  # a user has started the command by hand
            if self.exit_code != 0:
                self.failures[command] = _error_message(self.log(directory), self.exit_code)
                failed.add(directory)
        return "failed" if self.failures else "done"

    def failure_report(self) -> str:
        """Return a message that says which commands failed, why, and how to repeat them."""
        logs = {command: self.log(directory) for directory, command in self.commands.items()}
        messages = [f"{why}\n  log: {logs[text]}\n  to repeat: {text}" for text, why in self.failures.items()]
        messages = messages or [f"exit code {self.exit_code}"]
        return "\n".join(f"{self.name} {self.state}: {message}" for message in messages)

    def progress(self) -> tuple[int, float | None, float | None]:
        """Return the optimiser steps of the current run, its newest loss, and the seconds of it that are left."""
        newest, length = read_newest_values(self.current_run / "metrics.jsonl"), self.lengths[self.current_run]
        step, speed = int(newest.get("step", -1)) + 1, newest.get("train/images_per_s")
        seconds = (length.steps - step) * length.images_per_step / speed if speed else None
        return step, newest.get("train/loss"), seconds

    def results(self) -> dict[str, Any]:
        """Return the content of metrics.json as the last command wrote it; nothing before it has finished."""
        with suppress(Mistake):
            return load_results(list(self.commands)[-1]) or {}
        return {}


def start(command: str, log: Path, environment: dict[str, str | None]) -> subprocess.Popen:
    """Start a command as a user would type it, and append its output to a file.

    Args:
        environment: Variables that differ from this process's own; None removes one.
    """
    # SLURM_JOB_NAME: Lightning starts the run's ranks itself unless srun did, which it reads from this name.
    verify_place(log)
    log.parent.mkdir(parents=True, exist_ok=True)
    variables = os.environ | {"SLURM_JOB_NAME": "interactive", "PYTHONIOENCODING": "utf-8"} | environment
    with open(log, "a", encoding="utf-8") as file:
        file.write(log_header(command))
        file.flush()
        return subprocess.Popen(
            # -P: a directory `experiments` of the user's would be taken for LUMEN's.
            [sys.executable, "-P", "-m", *shlex.split(command)],
            env={name: value for name, value in variables.items() if value is not None},
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            # In the launcher's own group it would receive Ctrl-C twice: from the terminal and from the launcher.
            process_group=0,
            preexec_fn=signal_at_end_of_parent(signal.SIGTERM),  # at which the run saves
        )


def _error_message(log: Path, exit_code: int) -> str:
    """Return the error of the last command in a log, or its last line, or the signal that ended it."""
    if exit_code < 0:
        return f"ended by signal {-exit_code} ({signal.strsignal(-exit_code)})"
    lines = read_last_output(log)
    return [f"exit code {exit_code}", *lines[-1:], *list(filter(is_error, lines))[-1:]][-1]
