"""Flags of a tiny run of any task. A test that is parametrised by `task` covers every task of the registry."""

from collections.abc import Callable

import pytest

DEFAULT_TASK = "layout_to_image"
# Every component at its smallest; a task ignores those that it does not use.
TINY = ["size=32", "backbone=dino", "backbone.size=tiny", "backbone.patch=8", "backbone.weights=none"]
TINY += ["diffusion.weights=none", "diffusion.size=tiny", "batch=2", "conditioning.vectors=60", "warmup=3", "lr=1e-3"]
TINY += ["accelerator=cpu", "ema=0.5", "prompt_dropout=0.5"]
# Flags that a task needs beside these to be trained on a few images; a task without an entry needs none.
TASK_FLAGS: dict[str, list[str]] = {DEFAULT_TASK: []}


@pytest.fixture
def task() -> str:
    """Name of the task that runs train, unless a test is parametrised by it."""
    return DEFAULT_TASK


@pytest.fixture
def tiny(task) -> list[str]:
    """Flags of a tiny run of the task."""
    return tiny_flags(task)


@pytest.fixture(scope="session")
def tiny_flags_of() -> Callable[[str], list[str]]:
    """Function that returns the flags of a tiny run of a task."""
    return tiny_flags


def tiny_flags(task: str) -> list[str]:
    return [*TINY, *([] if task == DEFAULT_TASK else [f"task={task}"]), *TASK_FLAGS.get(task, [])]
