"""Scenes, and conditionings as the experiment `scenes` builds them."""

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest

from lumen.config.experiment import load
from lumen.core.interfaces import IGNORE, Batch, Conditioning
from lumen.core.registry import datamodules
from lumen.data.datamodule import DataModule
from lumen.data.source import LoaderConfig
from lumen.runs.build import build_conditioning
from lumen.runs.data import build_data


@pytest.fixture(scope="package")
def scenes() -> Batch:
    """Six held-out scenes; a corner of one is unlabelled."""
    data = DataModule(datamodules.build("scenes", loader_config=LoaderConfig(size=64, batch_size=6, eval_images=6)))
    batch = next(iter(data.test_dataloader()))
    batch.mask[0, :9, :7] = IGNORE
    return batch


@pytest.fixture(scope="package")
def scene_bytes(scenes) -> np.ndarray:
    """The images of the scenes as an image file holds them: n H W 3."""
    return np.rint((scenes.image.numpy().transpose(0, 2, 3, 1) + 1) * 127.5).astype(np.uint8)


@pytest.fixture(scope="package")
def build() -> Callable[..., Conditioning]:
    """A function that builds a conditioning from its name and arguments."""

    def build(name: str, **arguments) -> Conditioning:
        config = load("scenes", [f"conditioning={name}", *(f"conditioning.{k}={v}" for k, v in arguments.items())])
        return build_conditioning(config, build_data(config))

    return build


@pytest.fixture(scope="package")
def fitted(build) -> Callable[[str], Conditioning]:
    """A function that returns a fitted conditioning by name. It is shared, so no test may change it."""

    @cache
    def fitted(name: str) -> Conditioning:
        conditioning = build(name)
        if not conditioning.fitted:
            data = DataModule(datamodules.build("scenes", loader_config=LoaderConfig(size=64, batch_size=6)))
            conditioning.fit(data.sample_dataloader(12), 12, 0, "data")
        return conditioning

    return fitted
