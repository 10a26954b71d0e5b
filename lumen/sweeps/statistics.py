"""Bootstrap statistics of a table: confidence intervals of its cells, and paired tests against the best row."""

from functools import cache

import torch
from jaxtyping import Float
from torch import Tensor

from lumen.core.bootstrap import percentile_interval
from lumen.core.random import generator
from lumen.core.registry import metrics
from lumen.evaluation.keys import MetricKey
from lumen.sweeps.cell import MIN_TESTED_IMAGES, Cell

Scores = dict[str, list[dict[str, Tensor]]]  # per-image scores by metric, of each seed of each row


def add_statistics(
    cells: dict[str, list[Cell]], keys: list[MetricKey], scores: Scores, baseline: str | None = None
) -> None:
    """Set the interval of each cell, and compare it with the best of its column and with that of the baseline.

    Args:
        cells: Cells of each row, in the order of `keys`.
        baseline: Row that the others are compared with.
    """
    bootstrap = Bootstrap(scores)
    for column, key in enumerate(keys):
        column_cells = {row: row_cells[column] for row, row_cells in cells.items()}
        best = next((row for row, cell in column_cells.items() if cell.best), None)
        for row, cell in column_cells.items():
            if cell.value is None:
                continue
            cell.interval = bootstrap.interval(row, key) or cell.interval
            cell.significant = best not in (None, row) and bootstrap.differ(best, row, key)
            if baseline not in (None, row) and baseline in cells and bootstrap.has_enough_images(row, baseline, key):
                cell.difference = bootstrap.difference(row, baseline, key)


class Bootstrap:
    """Bootstrap resamples of the metric values of each row."""

    def __init__(self, scores: Scores):
        self.scores = scores
        self.resamples = cache(self._resamples)

    def interval(self, row: str, key: MetricKey) -> tuple[float, float] | None:
        """Return the 95 % confidence interval; None for values that are not made of per-image scores."""
        return _finite_interval(self.resamples(row, key))

    def differ(self, row: str, other: str, key: MetricKey) -> bool:
        """Return whether two rows differ with 95 % confidence.

        The test is paired: both are resampled on the same images, so the difficulty of an image cancels. Of few images
        it finds no difference.
        """
        if not self.has_enough_images(row, other, key):
            return False
        low, high = self.difference(row, other, key) or (0.0, 0.0)
        return low > 0 or high < 0

    def has_enough_images(self, row: str, other: str, key: MetricKey) -> bool:
        """Return whether two rows were scored on so many images that their difference can be tested."""
        counts = [len(seed.get(key.column, ())) for name in (row, other) for seed in self.scores[name]]
        return min(counts, default=0) >= MIN_TESTED_IMAGES

    def difference(self, row: str, other: str, key: MetricKey) -> tuple[float, float] | None:
        """Return the 95 % confidence interval of the value of a row minus that of another, on the same images."""
        first, second = self.resamples(row, key), self.resamples(other, key)
        return None if first is None or second is None else _finite_interval(first - second)

    def _resamples(self, row: str, key: MetricKey) -> Float[Tensor, " draws"] | None:
        """Return values of resampled images and seeds; rows on the same images resample the same ones."""
        scores = [seed.get(key.column) for seed in self.scores[row]] if key.kind == "test" else []
        if not scores or any(rows is None for rows in scores):
            return None
        metric = metrics.factory(key.registry_name)
        resamples = torch.stack([metric.bootstrap_resamples(rows) for rows in scores])
        seeds = torch.randint(len(scores), resamples.shape, generator=generator("bootstrap seeds"))
        return resamples.gather(0, seeds).mean(0) if len(scores) > 1 else resamples[0]


def _finite_interval(resamples: Float[Tensor, " n"] | None) -> tuple[float, float] | None:
    """Return the 95 % interval of resamples; None if there are none, or some lack all images of a domain."""
    if resamples is None or not bool(resamples.isfinite().all()):
        return None
    return tuple(percentile_interval(resamples))
