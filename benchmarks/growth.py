"""How time and memory grow with what is asked for, on the small models of `scenes`: python -m benchmarks.growth"""

import os

for library in ("OMP", "MKL", "OPENBLAS"):
    os.environ[f"{library}_NUM_THREADS"] = "1"  # before any of them is imported

import multiprocessing
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median

import torch
from matplotlib.figure import Figure

from lumen.config.experiment import load
from lumen.core.files import write_json
from lumen.core.interfaces import Batch
from lumen.evaluation.scores import Samples, save_samples
from lumen.runs.build import build_data, build_module
from lumen.sweeps.reports.plots import image
from lumen.sweeps.results import collect
from lumen.sweeps.table import Row, Table

PLACE = Path(__file__).parent / "results" / "growth.png"
ROUNDS = 2
IMAGES = 8  # of a batch, unless it is the batch that grows

Work = Iterator[None]  # a generator: up to its first yield it prepares, then each step is a round


def training(batch: int = IMAGES, size: int = 64, components: int = 20) -> Work:
    """Steps of training: layout, noise, loss, gradients."""
    config = load("scenes", [f"size={size}", f"batch={batch}", f"conditioning.components={components}"])
    module = build_module(config, build_data(config))
    shown = _images(batch, size)
    module.conditioning.fit([shown], batch, 0, "")
    yield
    while True:
        layout = module.conditioning(shown)
        module.diffusion.loss(shown.image, shown.caption, layout, [(0, i, 0) for i in shown.id]).mean().backward()
        yield


def fitting(images: int) -> Work:
    """Fits of the axes on 40 cells of each image."""
    config = load("scenes", [f"conditioning.vectors={40 * images}"])
    conditioning = build_module(config, build_data(config)).conditioning
    yield
    while True:
        conditioning.fit((_images(IMAGES, 64, first) for first in range(0, images, IMAGES)), images, 0, "")
        yield


def table(rows: int) -> Work:
    """A table of one metric, 1000 images of each row, with its intervals and what differs from the best."""
    with tempfile.TemporaryDirectory() as runs:
        every = [Row(f"row {n}", f"lr={n + 1}e-4", "", {}) for n in range(rows)]
        rules = {"images": 1000, "samples": 1, "sampling": {"sampler": "dpm", "steps": 15, "guidance": 2.0}, "hash": ""}
        made = Table("growth", "", "scenes", every, [f"runs={runs}", "metrics=[lpips]"], [], 1, [])
        for n, row in enumerate(every):
            place, title = next(iter(made.commands(row, 0))), "lpips-scenes"
            values = torch.randn(1000, generator=torch.Generator().manual_seed(n))
            names = [str(i) for i in range(1000)]
            save_samples(place / "samples.parquet", {"test": Samples(names, [""] * 1000, {title: values})})
            write_json(place / "metrics.json", {f"test/{title}": float(values.mean()), "protocol": rules})
        yield
        while True:
            collect(made)
            yield


def _images(count: int, size: int, first: int = 0) -> Batch:
    pixels = torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(first)) * 2 - 1
    return Batch(pixels, ["a house under a blue sky"] * count, [str(first + i) for i in range(count)])


PANELS: dict[str, tuple[Callable[[int], Work], list[int]]] = {
    "images of a batch: a training step": (training, [1, 4, 8, 16]),
    "pixels of a side: a training step": (lambda size: training(size=size), [32, 64, 96]),
    "components: a training step": (lambda n: training(components=n), [1, 10, 20, 40]),
    "images: a fit of the axes": (fitting, [50, 100, 200]),
    "rows: a table": (table, [2, 4, 8]),
}


def once(work: Work, answer: Connection) -> None:
    """Median processor time of a round, and how far memory rose above what was there before."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    next(work)
    next(work)  # warms up
    seconds = []
    for _ in range(ROUNDS):
        start = time.process_time()
        next(work)
        seconds.append(time.process_time() - start)
    answer.send((median(seconds), (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024))


def measured(work: Work) -> tuple[float, float]:
    """once(), in a process of its own, whose memory nothing else has used."""
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe()
    process = context.Process(target=once, args=(work, there))
    process.start()
    there.close()
    found = here.recv()
    process.join()
    return found


def drawn(found: dict[str, list[tuple[float, float]]]) -> Figure:
    """Time above memory, a column for each thing that grows."""
    figure = Figure(figsize=(11, 4.8), layout="constrained")
    panels = figure.subplots(2, len(found), sharex="col")
    for column, (name, figures) in zip(panels.T, found.items(), strict=True):
        what, _, made = name.partition(": ")
        sizes = PANELS[name][1]
        for panel, values, colour in zip(column, zip(*figures, strict=True), ("C0", "C1"), strict=True):
            panel.plot(sizes, values, "o-", color=colour, markersize=3)
            panel.set(xticks=sizes, xlim=(0, 1.06 * sizes[-1]), ylim=(0, 1.2 * max(values)))
        column[0].set_title(made, fontsize=9)
        column[1].set_xlabel(what)
    panels[0, 0].set_ylabel("processor time, s")
    panels[1, 0].set_ylabel("further memory, MB")
    return figure


def main() -> None:
    torch.set_num_threads(1)
    found = {}
    for name, (work, sizes) in PANELS.items():
        found[name] = [measured(work(size)) for size in sizes]
        for size, (seconds, megabytes) in zip(sizes, found[name], strict=True):
            print(f"{name}: {size}: {seconds:.3g} s, {megabytes:.0f} MB", flush=True)
    image(drawn(found)).quantize(64).save(PLACE, optimize=True)


if __name__ == "__main__":
    main()
