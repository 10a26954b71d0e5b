"""Shares of a training step on `scenes`: python -m benchmarks.step [key=value ...]"""

import sys
import tempfile
import time
from collections import defaultdict
from contextlib import contextmanager

from lightning.pytorch import Trainer
from lightning.pytorch.loops.fetchers import _PrefetchDataFetcher

from lumen.conditionings.neural_layout import NeuralLayout
from lumen.config.experiment import load
from lumen.generators.controlnet import ControlledDiffusion
from lumen.runs import train as run
from lumen.training.loggers import Journal, Tracker
from lumen.training.tasks.layout_to_image import LayoutModule

spent: dict[str, float] = defaultdict(float)


def timed(owner: type, method: str, part: str) -> None:
    """Adds the time spent in a method to a part."""
    plain = getattr(owner, method)

    def wrapped(*args, **kwargs):
        with clock(part):
            return plain(*args, **kwargs)

    setattr(owner, method, wrapped)


@contextmanager
def clock(part: str):
    start = time.perf_counter()
    yield
    spent[part] += time.perf_counter() - start


def main(flags: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        flags = ["every.validate=1000", "validation=4", "sampling.images=1", f"runs={folder}", *flags]
        config = load("scenes", flags)
        timed(ControlledDiffusion, "loss", "forward")
        timed(NeuralLayout, "forward", "layout")
        timed(_PrefetchDataFetcher, "__next__", "data")
        for logger in (Journal, Tracker):
            timed(logger, "log_metrics", "logging")
        timed(LayoutModule, "backward", "backward")
        timed(LayoutModule, "optimizer_step", "whole step")
        timed(Trainer, "fit", "training")
        run.train(config)
    # An optimiser step runs forward, layout and backward inside it; what is left is the optimiser's own.
    step = spent["whole step"]
    optimiser = step - spent["forward"] - spent["layout"] - spent["backward"]
    total = step + spent["data"] + spent["logging"]
    parts = {name: spent[name] for name in ("layout", "forward", "backward")} | {"optimiser": optimiser}
    for name, seconds in (parts | {"data": spent["data"], "logging": spent["logging"]}).items():
        print(f"{name:10s} {seconds:7.2f} s  {seconds / total:6.1%}")


if __name__ == "__main__":
    main(sys.argv[1:])
