"""Flags of a tiny run of any task. A test that is parametrised by `task` covers every task of the registry."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lumen.core import plugins
from lumen.core.registry import metrics, tasks

DEFAULT_TASK = "layout_to_image"
PLUGIN = Path(__file__).parent / "plugin"
# A Stable Diffusion of two blocks: what a run does with it takes a third of the time that four blocks take.
PIPELINE = next(Path(__file__).parent.glob("fixtures/*/pipeline"))
# Every component at its smallest; a task ignores those that it does not use.
TINY = ["size=32", "backbone=dino", "backbone.size=tiny", "backbone.patch=8", "backbone.weights=none"]
TINY += [f"diffusion.weights={PIPELINE}", "batch=2", "conditioning.vectors=60", "warmup=3", "lr=1e-3"]
TINY += ["accelerator=cpu", "ema=0.5", "prompt_dropout=0.5"]
# Flags that a task needs beside these to be trained on a few images; a task without an entry needs none.
TASK_FLAGS: dict[str, list[str]] = {DEFAULT_TASK: []}
TASK_FLAGS["directions"] = ["generator.weights=none", "metrics=[leak]"]
TASK_FLAGS["rearranger"] = ["metrics=[colour]", "task.clusters=4", "task.styles=4", "generator.sampler_steps=1"]


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
    if task == DEFAULT_TASK:
        return [*TINY, *TASK_FLAGS[task]]
    # A backbone that the task would not use is refused.
    flags = TINY if {"backbone", "conditioning"} & tasks.needs(task) else [f for f in TINY if f != "backbone=dino"]
    return [*flags, f"task={task}", *TASK_FLAGS.get(task, [])]


@pytest.fixture
def plugin(monkeypatch) -> Iterator[None]:
    """Package with the task label_probe and the metric pixel_accuracy, installed for one test."""

    def forget() -> None:
        plugins._entry_points.cache_clear()
        for registry in (metrics, tasks):
            registry.__dict__.pop("_plugins", None)
        for module in [name for name in sys.modules if name.startswith("label_probe_plugin")]:
            del sys.modules[module]

    monkeypatch.syspath_prepend(PLUGIN)
    forget()
    yield
    monkeypatch.undo()
    forget()
