"""Inventory of runs: what exists in a directory of runs, how far each run is, and how to resume it."""

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lumen.core.console import LOG_NAME
from lumen.core.locks import is_locked
from lumen.runs.run_records import Record, RecordIndex
from lumen.runs.tails import find_failure, read_newest_values
from lumen.training.checkpoint_files import list_checkpoints, step_of

State = Literal["finished", "running", "stopped", "failed", "damaged"]
SEED = re.compile(r"seed\d+")


@dataclass(frozen=True)
class RunInfo:
    """Summary of a run for its user.

    Attributes:
        name: Path below the directory of all runs, such as scenes/default/seed0.
        state: "finished"; "running", if a process holds the directory; "failed", if its last command ended with an
            error; "damaged", if a file of it cannot be read; else "stopped".
        step: Optimiser step that it has reached, or resumes at.
        steps: Optimiser steps of the whole run; None if its config is damaged.
        metrics: Metric values and validation loss of a finished run.
        num_bytes: Size of all files.
        changed: Time of the last change of a file, in seconds since 1970.
        command: Command that made the run, and resumes it.
        settings: Config by dotted key.
        problem: Sentence about a damaged file, or the error of the last command.
    """

    directory: Path
    name: str
    state: State
    step: int
    steps: int | None
    metrics: dict[str, float]
    num_bytes: int
    changed: float
    command: str
    settings: dict[str, Any]
    problem: str | None


def list_runs(root: Path) -> list[RunInfo]:
    """Return all runs of a directory, the last changed first."""
    index = RecordIndex(root)
    runs = []
    for name in _run_names(root):
        with suppress(FileNotFoundError):  # another process removes it
            runs.append(_describe_run(root / name, name, index))
    index.save()
    return sorted((run for run in runs if run is not None), key=lambda run: (-run.changed, run.name))


def _run_names(root: Path) -> Iterator[str]:
    """Yield the paths of run directories: experiment, overrides and seed."""
    for experiment in _directories(root):
        for run in _directories(root / experiment):
            yield from (f"{experiment}/{run}/{seed}" for seed in _directories(root / experiment / run, SEED))


def _directories(path: Path, pattern: re.Pattern = re.compile("")) -> list[str]:
    with suppress(OSError), os.scandir(path) as entries:
        return sorted(entry.name for entry in entries if pattern.match(entry.name) and entry.is_dir())
    return []


def _describe_run(directory: Path, name: str, index: RecordIndex) -> RunInfo | None:
    """Return the summary of a run; None if its directory holds nothing but locks."""
    num_bytes, changed = _measure(directory)
    if not changed:
        return None
    record = index.read(name, directory)
    problem = record["problem"] or (None if record["metrics"] else find_failure(directory / LOG_NAME))
    state = _find_state(directory, record, problem)
    return RunInfo(
        directory=directory,
        name=name,
        state=state,
        step=record["step"] if record["step"] is not None else _find_step(directory, state),
        steps=record["settings"].get("steps"),
        metrics=record["metrics"] or {},
        num_bytes=num_bytes,
        changed=changed,
        command=record["command"],
        settings=record["settings"],
        problem=None if state in ("running", "finished") else problem,
    )


def _find_state(directory: Path, record: Record, problem: str | None) -> State:
    if record["metrics"] and not record["problem"]:
        return "finished"
    if is_locked(directory):
        return "running"
    if record["problem"] and (directory / "config.yaml").exists():
        return "damaged"
    return "failed" if problem else "stopped"


def _find_step(directory: Path, state: State) -> int:
    """Return the step of the newest checkpoint, or, while a run goes on, the step after the last one logged."""
    checkpoints = list_checkpoints(directory / "checkpoints")
    saved = step_of(checkpoints[0]) if checkpoints else 0
    if state != "running":
        return saved
    return max(saved, int(read_newest_values(directory / "metrics.jsonl").get("step", -1)) + 1)


def _measure(path: str | Path) -> tuple[int, float]:
    """Return the bytes of all files of a directory and the time of their last change; 0 where there are only locks."""
    num_bytes, changed = 0, 0.0
    with os.scandir(path) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                size, time = _measure(entry.path)
            elif entry.name in (".lock", ".trial"):
                continue
            else:
                facts = entry.stat(follow_symlinks=False)
                size, time = facts.st_size, facts.st_mtime
            num_bytes, changed = num_bytes + size, max(changed, time)
    return num_bytes, changed
