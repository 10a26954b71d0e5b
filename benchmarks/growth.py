"""Growth of time and memory with the size of a task, on the small models of `scenes`: python -m benchmarks.growth."""

import os

for library in ("OMP", "MKL", "OPENBLAS"):
    os.environ[f"{library}_NUM_THREADS"] = "1"  # before any of them is imported

import multiprocessing
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from math import isqrt
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median

import numpy as np
import torch
from matplotlib.figure import Figure

from lumen.config.experiment import load
from lumen.core.files import write_json
from lumen.core.interfaces import Batch
from lumen.evaluation.scores import PerImageScores, save_scores
from lumen.runs.build import build_task
from lumen.runs.data import build_data
from lumen.sweeps.reports.plots import to_image
from lumen.sweeps.results import collect
from lumen.sweeps.table import Row, Table

OUTPUT = Path(__file__).parent / "results" / "growth.png"
ROUNDS = 2
BATCH_SIZE = 8  # unless the batch grows

Work = Iterator[None]  # a generator: preparation up to the first yield, then one round per step


def train_steps(batch: int = BATCH_SIZE, size: int = 64, components: int = 20) -> Work:
    """Run training steps: layout, noise, loss, gradients."""
    config = load("scenes", [f"size={size}", f"batch={batch}", f"conditioning.components={components}"])
    task = build_task(config, build_data(config))
    images = _sample_images(batch, size)
    task.conditioning.fit([images], batch, 0, "")
    keys = [(0, image_id, 0) for image_id in images.id]
    yield
    while True:
        latent_moments, layout = task.encode_batch(images)
        task.generator.loss(latent_moments, images.caption, layout, keys).mean().backward()
        yield


def fit_pca(images: int) -> Work:
    """Fit PCA on 40 cells of each image."""
    config = load("scenes", [f"conditioning.vectors={40 * images}"])
    conditioning = build_task(config, build_data(config)).conditioning
    yield
    while True:
        batches = (_sample_images(BATCH_SIZE, 64, first) for first in range(0, images, BATCH_SIZE))
        conditioning.fit(batches, images, 0, "")
        yield


def collect_table(num_rows: int) -> Work:
    """Collect a table of one metric with 1000 images per row, its intervals and its significant differences."""
    with tempfile.TemporaryDirectory() as runs:
        rows = [Row(f"row {n}", f"lr={n + 1}e-4", "", {}) for n in range(num_rows)]
        table = Table("growth", "", "scenes", rows, [f"runs={runs}", "metrics=[lpips]"], [], 1, [])
        for n, row in enumerate(rows):
            _write_run(next(iter(table.commands(row, 0))), "lpips-scenes", n)
        yield
        while True:
            table.cache_path(".json").unlink(missing_ok=True)  # or only the first round would resample
            collect(table)
            yield


def _write_run(directory: Path, key: str, seed: int) -> None:
    protocol = {"images": 1000, "samples": 1, "sampling": {"sampler": "dpm", "steps": 15, "guidance": 2.0}, "hash": ""}
    scores = torch.randn(1000, generator=torch.Generator().manual_seed(seed))
    ids = [str(i) for i in range(1000)]
    save_scores(directory / "samples.parquet", {"test": PerImageScores(ids, [""] * 1000, {key: scores})})
    write_json(directory / "metrics.json", {f"test/{key}": float(scores.mean()), "protocol": protocol})


def _sample_images(count: int, size: int, first: int = 0) -> Batch:
    pixels = torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(first)) * 2 - 1
    return Batch(pixels, ["a house under a blue sky"] * count, [str(first + i) for i in range(count)])


# Every variable is one that time may be proportional to, so that such a law is a straight line.
PANELS: dict[str, tuple[Callable[[int], Work], list[int]]] = {
    "images of a batch: a training step": (train_steps, [1, 4, 8, 16]),
    "pixels: a training step": (lambda pixels: train_steps(size=isqrt(pixels)), [32**2, 64**2, 96**2]),
    "components: a training step": (lambda n: train_steps(components=n), [1, 10, 20, 40]),
    "images: a PCA fit": (fit_pca, [50, 100, 200]),
    "rows: a table": (collect_table, [2, 4, 8]),
}


def measure_rounds(work: Work, connection: Connection) -> None:
    """Send the median CPU seconds of a round, and the rise of peak memory in MB."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    next(work)
    next(work)  # warms up
    seconds = []
    for _ in range(ROUNDS):
        start = time.process_time()
        next(work)
        seconds.append(time.process_time() - start)
    connection.send((median(seconds), (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024))


def measure(work: Work) -> tuple[float, float]:
    """Return the result of `measure_rounds` in a process of its own, whose memory nothing else has used."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe()
    process = context.Process(target=measure_rounds, args=(work, sender))
    process.start()
    sender.close()
    result = receiver.recv()
    process.join()
    return result


def plot(results: dict[str, list[tuple[float, float]]]) -> Figure:
    """Return a figure with time above memory, one column per panel, and the straight line nearest to each.

    Measurements on their line grow in proportion to the variable, above a constant share.
    """
    figure = Figure(figsize=(11, 4.8), layout="constrained")
    axes = figure.subplots(2, len(results), sharex="col")
    for column, (name, measurements) in zip(axes.T, results.items(), strict=True):
        variable, _, title = name.partition(": ")
        sizes = PANELS[name][1]
        for ax, values, colour in zip(column, zip(*measurements, strict=True), ("C0", "C1"), strict=True):
            ax.plot(sizes, values, "o", color=colour, markersize=3)
            ax.plot(sizes, np.polyval(np.polyfit(sizes, values, 1), sizes), color=colour, alpha=0.5, linewidth=1)
            ax.set(xticks=sizes, xlim=(0, 1.06 * sizes[-1]), ylim=(0, 1.2 * max(values)))
        column[0].set_title(title, fontsize=9)
        column[1].set_xlabel(variable)
    axes[0, 0].set_ylabel("processor time, s")
    axes[1, 0].set_ylabel("additional memory, MB")
    return figure


def main() -> None:
    """Measure all panels and write the figure."""
    torch.set_num_threads(1)
    results = {}
    for name, (work, sizes) in PANELS.items():
        results[name] = [measure(work(size)) for size in sizes]
        for size, (seconds, megabytes) in zip(sizes, results[name], strict=True):
            print(f"{name}: {size}: {seconds:.3g} s, {megabytes:.0f} MB", flush=True)
    to_image(plot(results)).quantize(64).save(OUTPUT, optimize=True)


if __name__ == "__main__":
    main()
