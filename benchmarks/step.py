"""Profile of a training step on `scenes` by part: python -m benchmarks.step [key=value ...]."""

import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

from lightning.pytorch import Trainer
from lightning.pytorch.loops.fetchers import _PrefetchDataFetcher

from lumen.conditionings.neural_layout import NeuralLayout
from lumen.config.experiment import load
from lumen.generators.controlnet import ControlNet
from lumen.runs.train import train
from lumen.training.loggers import JSONLLogger
from lumen.training.tasks.layout_to_image import LayoutToImage
from lumen.training.wandb_logger import ResilientWandbLogger

SECONDS: dict[str, float] = defaultdict(float)


def time_method(owner: type, method: str, part: str) -> None:
    """Add the time spent in a method to a part."""
    original = getattr(owner, method)

    def timed(*args, **kwargs):
        with clock(part):
            return original(*args, **kwargs)

    setattr(owner, method, timed)


@contextmanager
def clock(part: str) -> Iterator[None]:
    """Add the time of the block to a part."""
    start = time.perf_counter()
    yield
    SECONDS[part] += time.perf_counter() - start


def main(overrides: list[str]) -> None:
    """Train, and print seconds and share of every part of a step."""
    with tempfile.TemporaryDirectory() as directory:
        overrides = ["every.validate=1000", "validation=4", "sampling.images=1", f"runs={directory}", *overrides]
        config = load("scenes", overrides)
        time_method(ControlNet, "loss", "forward")
        time_method(NeuralLayout, "forward", "layout")
        time_method(_PrefetchDataFetcher, "__next__", "data")
        for logger in (JSONLLogger, ResilientWandbLogger):
            time_method(logger, "log_metrics", "logging")
        time_method(LayoutToImage, "backward", "backward")
        time_method(LayoutToImage, "optimizer_step", "whole step")
        time_method(Trainer, "fit", "training")
        train(config)
    # An optimiser step contains forward, layout and backward; the remaining time is the optimiser's own.
    step = SECONDS["whole step"]
    optimiser = step - SECONDS["forward"] - SECONDS["layout"] - SECONDS["backward"]
    total = step + SECONDS["data"] + SECONDS["logging"]
    parts = {name: SECONDS[name] for name in ("layout", "forward", "backward")} | {"optimiser": optimiser}
    for name, seconds in (parts | {"data": SECONDS["data"], "logging": SECONDS["logging"]}).items():
        print(f"{name:10s} {seconds:7.2f} s  {seconds / total:6.1%}")


if __name__ == "__main__":
    main(sys.argv[1:])
