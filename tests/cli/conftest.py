"""A finished run of four steps, a photo, and readers of a run's history."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lumen.__main__ import main
from lumen.core.registry import metrics

STEPS = 4
# A Stable Diffusion of two blocks, which takes a third of the time that four blocks take.
PIPELINE = next(Path(__file__).parents[1].glob("runs/fixtures/*/pipeline"))
TINY = ["size=32", f"diffusion.weights={PIPELINE}", "batch=2", "data.images=12", "conditioning.vectors=60"]
TINY += ["validation=4", "workers=0", "warmup=1", "metrics=[]", "measure.images=3", "sampling.steps=2"]
TINY += ["sampling.images=1", "every.log=1", "every.validate=2", "every.checkpoint=1"]


@pytest.fixture(scope="session")
def tiny() -> list[str]:
    """Overrides of a run of seconds."""
    return TINY


@pytest.fixture(scope="session")
def command() -> list[str]:
    """Arguments that train the finished run."""
    names = [name for name in metrics.names() if metrics.literal(name, "output_kind", "images") == "images"]
    return ["train", "scenes", *TINY, f"metrics=[{','.join(names)}]", f"steps={STEPS}", "ema=0.5"]


@pytest.fixture(scope="session")
def finished(command, tmp_path_factory) -> Path:
    """Directory of a finished run of four steps; tests leave it as it is."""
    runs = tmp_path_factory.mktemp("runs")
    assert main([*command, f"runs={runs}"]) == 0
    return next(runs.glob("scenes/*/seed0"))


@pytest.fixture(scope="session")
def photo(tmp_path_factory) -> Path:
    """Photo of random pixels."""
    path = tmp_path_factory.mktemp("photo") / "photo.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8)).save(path)
    return path


@pytest.fixture(scope="session")
def history() -> Callable[[Path], list[dict]]:
    """Reader of the logged lines of a run."""
    return lambda run: [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="session")
def losses(history) -> Callable[[Path], dict[int, float]]:
    """Reader of the training losses of a run, by step."""
    return lambda run: {line["step"]: line["train/loss"] for line in history(run) if "train/loss" in line}
