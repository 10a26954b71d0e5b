"""Leakage of appearance: linear probes of the layouts of a table's rows, cell by cell."""

import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev

import torch
from lightning.pytorch import LightningDataModule
from torch.nn.functional import one_hot

from lumen.config.schema import Config
from lumen.core.bootstrap import bootstrap_resamples, percentile_interval
from lumen.core.errors import BadConfig, BasisMismatch
from lumen.core.files import write
from lumen.core.interfaces import Batch, Conditioning
from lumen.core.resize import resize
from lumen.evaluation.linear_probe import (
    PENALTY,
    class_counts,
    fit_classifier,
    fit_ridge,
    mean_iou,
    r_squared,
    squared_error_sums,
)
from lumen.evaluation.probe_dataset import Cells, Key, Layout, class_shares, collect_cells
from lumen.features.pca import Basis
from lumen.runs.build import build_conditioning, device
from lumen.runs.data import build_data
from lumen.runs.directory import run_directory
from lumen.sweeps.reports.text import format_line
from lumen.sweeps.table import Table
from lumen.training.fit_conditioning import fit_conditioning

NUM_TRAIN_IMAGES = 1024  # that the probes are fitted on
MIN_CELL_PX = 8  # side of a cell; layouts at the resolution of the image are divided into cells too
POSITIONS_PER_SIDE = 8  # that the reference row "the position" distinguishes
TARGETS = {"colour": "colour, R²", "edges": "edges, R²", "depth": "depth, R²", "label": "class, mIoU"}

Score = tuple[float, list[float]]  # of a probe, with its 95 % confidence interval over images


def leakage(table: Table) -> tuple[str, Path]:
    """Probe the layouts of all rows, and reference layouts, for the content of images.

    All rows and seeds are fitted on the same training images and evaluated on the same held-out images.

    Returns:
        The table as Markdown, and the file that it was written to.

    Raises:
        BadConfig: The rows do not use the same images, or have no layouts.
    """
    if table.learns_from_images:
        raise BadConfig(
            f"the runs of {table.name} learn from images and have no layouts; name a table that has some, as table2."
        )
    configs = {(row.name, seed): table.config(row, seed) for row in table.rows for seed in range(table.seeds)}
    config = _common_config(table, configs)
    seed_data = [build_data(table.config(table.rows[0], seed)) for seed in range(table.seeds)]
    bases = {key: _find_basis(row_config) for key, row_config in configs.items()}
    layouts = {
        key: _build_conditioning(row_config, seed_data[key[1]], bases[key]) for key, row_config in configs.items()
    }
    data, batch = seed_data[0], next(iter(seed_data[0].test_dataloader()))
    num_classes = len(data.source.classes)
    grid = coarsest_grid(layouts.values(), batch.to(device(config)))
    layouts |= reference_layouts(grid, num_classes)
    train, held_out = (
        collect_cells(batches, layouts, grid, num_classes, device(config))
        for batches in (data.sample_dataloader(NUM_TRAIN_IMAGES), data.test_dataloader())
    )
    scores = {key: probe(train, held_out, key, num_classes) for key in layouts}
    num_finished = sum(basis is not None for basis in bases.values())
    notes = _format_protocol(train, held_out, grid, batch)
    notes += f" Axes of {num_finished} of {len(configs)} layouts are those of finished runs; the others were fitted."
    text = "\n".join([*_format_table(table, train, scores), "", notes])
    path = table.output_path(".md", prefix="leakage-")
    write(path, f"{text}\n")
    return text, path


def reference_layouts(grid: tuple[int, int], num_classes: int) -> dict[Key, Layout]:
    """Return layouts to compare with: a constant, the position, the true labels, and all pixels."""
    # One channel per position, 1 there and falling to 0 at its neighbours: linear maps of them are smooth in position.
    positions = resize(torch.eye(POSITIONS_PER_SIDE**2).view(1, -1, POSITIONS_PER_SIDE, POSITIONS_PER_SIDE), grid)
    return {
        ("*nothing*", 0): lambda batch: torch.zeros(len(batch.id), 1, *grid),
        ("*the position*", 0): lambda batch: positions.expand(len(batch.id), -1, -1, -1),
        ("*the true labels*", 0): lambda batch: class_shares(batch.mask, grid, num_classes)[:, :-1],
        ("*all pixels*", 0): lambda batch: batch.image,
    }


@torch.no_grad()
def coarsest_grid(layouts: Iterable[Layout], batch: Batch) -> tuple[int, int]:
    """Return one grid for all rows, so that they are comparable: the coarsest layout's, or the smallest cells'."""
    sizes = [layout(batch).shape[-2:] for layout in layouts]
    sizes.append([max(side // MIN_CELL_PX, 1) for side in batch.image.shape[-2:]])
    return min(h for h, _ in sizes), min(w for _, w in sizes)


def probe(train: Cells, held_out: Cells, key: Key, num_classes: int) -> dict[str, Score]:
    """Fit probes of one layout and return their scores by target; targets that the data lacks are left out."""
    scores = {}
    for target in TARGETS:
        x, y, _ = train.select_labelled(key, target)
        test_x, test_y, image_index = held_out.select_labelled(key, target)
        if not (len(x) and len(test_x)):
            continue
        if target == "label":
            aggregate, predict = mean_iou, fit_classifier(x, one_hot(y[:, 0].long(), num_classes).float())
            predicted = predict(test_x).argmax(1)
            rows = class_counts(test_y[:, 0].long(), predicted, image_index, held_out.num_images, num_classes)
        else:
            aggregate, predict = r_squared, fit_ridge(x, y)
            rows = squared_error_sums(test_y, predict(test_x), image_index, held_out.num_images)
        scores[target] = float(aggregate(rows)), percentile_interval(bootstrap_resamples(aggregate, rows))
    return scores


def _common_config(table: Table, configs: dict[Key, Config]) -> Config:
    """Return a config that stands for the images of all rows.

    Raises:
        BadConfig: The rows do not use the same images.
    """
    first, *others = configs.values()
    if any((config.data, config.size) != (first.data, first.size) for config in others):
        raise BadConfig(
            f"the rows of {table.name} differ in data or size, so their layouts are not of the same images; "
            "name a table whose rows differ in backbone or conditioning."
        )
    return first


def _find_basis(config: Config) -> Path | None:
    """Return the file of PCA axes that the row's run left; None if it has none. A damaged one is printed."""
    path = run_directory(config) / "basis.safetensors"
    if not path.exists():
        return None
    try:
        Basis.load(path)
    except BasisMismatch as mistake:
        print(f"lumen: left out: {mistake}", file=sys.stderr)
        return None
    return path


def _build_conditioning(config: Config, data: LightningDataModule, basis: Path | None) -> Conditioning:
    """Return a row's conditioning with the axes of its finished run, or fitted as that run would fit it."""
    if basis is not None:
        config = replace(config, conditioning=config.conditioning | {"basis": str(basis)})
    conditioning = build_conditioning(config, data).to(device(config))
    fit_conditioning(conditioning, data, config.seed)
    return conditioning


def _format_table(table: Table, train: Cells, scores: dict[Key, dict[str, Score]]) -> list[str]:
    """Return the title and the lines of the table."""
    title = f"How much appearance does a layout carry? (`{table.name}` on `{table.base}`)"
    lines = [title, "", format_line(["layout", "numbers", *TARGETS.values()])]
    lines.append(format_line(["---"] * (2 + len(TARGETS))))
    for name in dict.fromkeys(name for name, _ in scores):
        seed_scores = [result for (layout, _), result in scores.items() if layout == name]
        cells = [_format_cell([result[target] for result in seed_scores if target in result]) for target in TARGETS]
        lines.append(format_line([name, str(train.features[name, 0].shape[1]), *cells]))
    return lines


def _format_cell(scores: list[Score]) -> str:
    """Return a score with its interval over images, or the mean and standard deviation of several seeds."""
    if not scores:
        return "–"
    if len(scores) > 1:
        return f"{mean(value for value, _ in scores):z.3f} ± {stdev(value for value, _ in scores):.3f}"
    [(value, (low, high))] = scores
    return f"{value:z.3f} [{low:z.3f}, {high:z.3f}]"


def _format_protocol(train: Cells, held_out: Cells, grid: tuple[int, int], batch: Batch) -> str:
    """Return a paragraph about everything that the scores depend on."""
    h, w = (side / cells for side, cells in zip(batch.image.shape[-2:], grid, strict=True))
    return (
        f"Each image is divided into {grid[0]} x {grid[1]} cells of {h:.3g} x {w:.3g} px, the same for every row. "
        "Linear probes predict the content of a cell from the numbers that the layout has there; a finer layout "
        "contributes all its numbers in the cell. The targets are the mean colour (RGB), the mean gradient of the "
        "luminance (Sobel), the mean log depth and the most frequent class. Ridge and multinomial logistic regression, "
        f"penalty {PENALTY:g} of the squared weights of standardised numbers; fitted on {len(train.image_index):,} "
        f"cells of {train.num_images:,} training images, evaluated on {len(held_out.image_index):,} cells of "
        f"{held_out.num_images:,} held-out images. Brackets: 95 % confidence interval over images (bootstrap). "
        "Nothing: the most frequent content; the position: the most frequent content there; the true labels: their "
        "shares in the cell; all pixels: an upper bound for colour only, because the other targets are not linear in "
        "the pixels. A network may extract more than a linear probe."
    )
