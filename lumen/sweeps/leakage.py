"""How much appearance a layout still carries: what linear probes read out of one cell of it, row by row of a table."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev

import torch
from lightning.pytorch import LightningDataModule
from torch.nn.functional import one_hot

from lumen.config.schema import Config
from lumen.core.bootstrap import bootstrap_resamples, percentile_interval
from lumen.core.errors import BadConfig
from lumen.core.files import write
from lumen.core.interfaces import Batch, Conditioning
from lumen.core.resize import resize
from lumen.evaluation.linear_probe import PENALTY, classifier, errors, explained, mean_iou, overlaps, regression
from lumen.evaluation.probe_dataset import Cells, Key, Layout, look, shares
from lumen.runs import directory as folder
from lumen.runs.build import build_conditioning, build_data, device
from lumen.sweeps.table import Table
from lumen.training.fit_conditioning import fit

IMAGES = 1024  # training images that the probes learn from
FINEST = 8  # px, the least side of a cell: a layout as fine as the image is read by cells too
PLACES = 8  # per side, what the anchor of the position tells apart
MEASURES = {"colour": "colour, R²", "edges": "edges, R²", "depth": "depth, R²", "label": "class, mIoU"}


def leakage(table: Table) -> tuple[str, Path]:
    """What the layouts of all rows and the anchors tell of images, as Markdown, and the file that has it too.

    The probes are taught on the same training images and judged on the same held-out ones for all rows and seeds.

    Raises:
        BadConfig: the rows do not look at the same images.
    """
    configs = {(row.name, seed): table.config(row, seed) for row in table.rows for seed in range(table.seeds)}
    config = _alike(table, configs)
    sources = [build_data(table.config(table.rows[0], seed)) for seed in range(table.seeds)]
    layouts = {key: _conditioning(one, sources[key[1]]) for key, one in configs.items()}
    data, place = sources[0], device(config)
    first, classes = next(iter(data.test_dataloader())), len(data.classes)
    grid = coarsest(layouts.values(), first.to(place))
    layouts |= anchors(grid, classes)
    images = data.sample_dataloader(IMAGES), data.test_dataloader()
    taught, held = (look(some, layouts, grid, classes, place) for some in images)
    figures = {key: judged(taught, held, key, classes) for key in layouts}
    kept = sum(_basis(one).exists() for one in configs.values())
    told = _protocol(taught, held, grid, first, kept, len(configs))
    text = "\n".join([*_lines(table, taught, figures), "", told])
    path = table.file.with_name(f"leakage-{table.file.name}.md")
    write(path, f"{text}\n")
    return text, path


def anchors(grid: tuple[int, int], classes: int) -> dict[Key, Layout]:
    """What figures are held against: nothing, the position, the true labels, all pixels."""
    # A number per place, 1 there and falling to 0 at its neighbours: linear maps of them are all maps of position.
    places = resize(torch.eye(PLACES**2).view(1, -1, PLACES, PLACES), grid)
    return {
        ("*nothing*", 0): lambda batch: torch.zeros(len(batch.id), 1, *grid),
        ("*the position*", 0): lambda batch: places.expand(len(batch.id), -1, -1, -1),
        ("*the true labels*", 0): lambda batch: shares(batch.mask, grid, classes)[:, :-1],
        ("*all pixels*", 0): lambda batch: batch.image,
    }


@torch.no_grad()
def coarsest(layouts: Iterable[Layout], batch: Batch) -> tuple[int, int]:
    """One grid for all rows, so that they are asked the same: the coarsest layout's, of cells of `FINEST` or more."""
    sizes = [layout(batch).shape[-2:] for layout in layouts]
    sizes.append([max(side // FINEST, 1) for side in batch.image.shape[-2:]])
    return min(h for h, _ in sizes), min(w for _, w in sizes)


def judged(taught: Cells, held: Cells, key: Key, classes: int) -> dict[str, tuple[float, list[float]]]:
    """By measure what a layout's probe reaches and its interval over images; nothing where no truth is known."""
    found = {}
    for measure in MEASURES:
        x, y, _ = taught.known(key, measure)
        asked, truth, owner = held.known(key, measure)
        if not (len(x) and len(asked)):
            continue
        if measure == "label":
            figure, read = mean_iou, classifier(x, one_hot(y[:, 0].long(), classes).float())
            rows = overlaps(truth[:, 0].long(), read(asked).argmax(1), owner, held.images, classes)
        else:
            figure, read = explained, regression(x, y)
            rows = errors(truth, read(asked), owner, held.images)
        found[measure] = float(figure(rows)), percentile_interval(bootstrap_resamples(figure, rows))
    return found


def _alike(table: Table, configs: dict[Key, Config]) -> Config:
    first, *rest = configs.values()
    if any((one.data, one.size) != (first.data, first.size) for one in rest):
        raise BadConfig(
            f"the rows of {table.name} differ in data or size, so their layouts are not of the same images; "
            "name a table whose rows differ in backbone or conditioning."
        )
    return first


def _basis(config: Config) -> Path:
    """Where the row's run leaves its axes once it is finished."""
    return folder.place_of(config) / "basis.safetensors"


def _conditioning(config: Config, data: LightningDataModule) -> Conditioning:
    """A row's conditioning with the axes of its finished run, or fitted as that run would fit them."""
    if _basis(config).exists():
        config = replace(config, conditioning=config.conditioning | {"basis": str(_basis(config))})
    conditioning = build_conditioning(config, data).to(device(config))
    fit(conditioning, data, config.seed)
    return conditioning


def _lines(table: Table, taught: Cells, figures: dict[Key, dict]) -> list[str]:
    title = f"How much appearance does a layout carry? (`{table.name}` on `{table.base}`)"
    lines = [title, "", _line(["layout", "numbers", *MEASURES.values()]), _line(["---"] * (2 + len(MEASURES)))]
    for name in dict.fromkeys(name for name, _ in figures):
        seeds = [each for (whose, _), each in figures.items() if whose == name]
        count = str(taught.numbers[name, 0].shape[1])
        lines.append(_line([name, count, *(_cell([s[key] for s in seeds if key in s]) for key in MEASURES)]))
    return lines


def _cell(figures: list[tuple[float, list[float]]]) -> str:
    """With its interval over images, or of several seeds their mean and deviation."""
    if not figures:
        return "–"
    if len(figures) > 1:
        return f"{mean(value for value, _ in figures):z.3f} ± {stdev(value for value, _ in figures):.3f}"
    [(value, (low, high))] = figures
    return f"{value:z.3f} [{low:z.3f}, {high:z.3f}]"


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _protocol(taught: Cells, held: Cells, grid: tuple[int, int], batch: Batch, kept: int, rows: int) -> str:
    """All that the figures depend on."""
    h, w = (side / cells for side, cells in zip(batch.image.shape[-2:], grid, strict=True))
    return (
        f"Linear probes of the numbers that a layout has in one cell ({grid[0]} x {grid[1]} cells of {h:.3g} x {w:.3g} "
        "px for every row; a finer layout gives all its numbers there) of what the image shows there: mean colour "
        "(RGB), mean gradient of the luminance (Sobel), mean log depth, commonest class. Ridge and multinomial "
        f"logistic regression, penalty {PENALTY:g} of the squared weights of standardised numbers; taught on "
        f"{len(taught.owner):,} cells of {taught.images:,} training images, judged on {len(held.owner):,} of "
        f"{held.images:,} held-out ones; in brackets the 95 % bootstrap interval over these. Axes of {kept} of {rows} "
        "layouts are those of finished runs, all others were fitted on training images. Nothing: what is most usual; "
        "the position: what is most usual there; the true labels: their shares in the cell; all pixels: a ceiling of "
        "colour alone, for the rest is no linear function of pixels. A network may read more than a linear probe does."
    )
