"""Rearranger beside a ControlNet, from a label map to pixels: python -m benchmarks.rearrange [key=value ...]."""

import sys
import time
from collections.abc import Callable
from statistics import median

from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from lumen.config.experiment import load
from lumen.core.interfaces import Batch, Task
from lumen.data.datamodule import DataModule
from lumen.runs.build import build_task
from lumen.runs.data import build_data

ROUNDS = 9
LAYOUTS = ["conditioning=segmap", "data.images=8", "workers=0", "accelerator=cpu"]
BANK = "task.styles=4"  # more styles make no image slower
SEEDS = [[7]]


def inputs(overrides: list[str]) -> tuple[Task, Task, Batch, dict]:
    """Return an untrained rearranger with a filled bank, an untrained ControlNet, a label map, and the sampling."""
    tasks, shared = [], [override for override in overrides if not override.startswith("task.")]
    for own in (["task=rearranger", BANK, *overrides], shared):
        config = load("scenes", [*LAYOUTS, *own])
        data = build_data(config)
        tasks.append(build_task(config, data))
    rearranger, controlnet = tasks
    rearranger.fit_statistics(data)
    options = config.sampling
    sampling = {"sampler": options.sampler, "steps": options.steps, "guidance": options.guidance}
    return rearranger, controlnet, take_image(data), sampling


def take_image(data: DataModule) -> Batch:
    """Return one image with its label map."""
    return data.grid_batch(1).to("cpu")


def measure(function: Callable[[], Tensor]) -> tuple[float, float]:
    """Return CPU seconds, the median of several rounds, and GFLOP."""
    with FlopCounterMode(display=False) as counter:
        function()
    seconds = []
    for _ in range(ROUNDS):
        start = time.process_time()
        function()
        seconds.append(time.process_time() - start)
    return median(seconds), counter.get_total_flops() / 1e9


def compare(overrides: list[str]) -> dict[str, tuple[float, float]]:
    """Return CPU seconds and GFLOP of an image by each way."""
    rearranger, controlnet, batch, sampling = inputs(overrides)
    seeds = SEEDS[0]
    return {
        "rearranger, layout to pixels": measure(lambda: rearranger.outputs(batch, SEEDS)),
        "ControlNet, layout to pixels": measure(lambda: controlnet.outputs(batch, SEEDS, **sampling)),
        "sample of the bank": measure(lambda: rearranger.generator.latents(seeds, rearranger.bank.size)),
    }


def main(overrides: list[str]) -> None:
    """Print a line for each way, and how many times faster an image is from a filled bank and without one."""
    costs = compare(overrides)
    for name, (seconds, gflop) in costs.items():
        print(f"{name:30s} {seconds:8.4f} CPU s {gflop:10.3f} GFLOP")
    (ours, flops), (peer, peer_flops), (sample, sample_flops) = costs.values()
    print(f"from a filled bank: {peer / ours:.1f} times faster, {peer_flops / flops:.1f} times fewer operations")
    both, both_flops = ours + sample, flops + sample_flops
    print(f"without a bank: {peer / both:.1f} times faster, {peer_flops / both_flops:.1f} times fewer operations")


if __name__ == "__main__":
    main(sys.argv[1:])
