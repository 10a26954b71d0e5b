"""Bootstrap resamples and confidence intervals."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from lumen.core.random import generator

RESAMPLES_AT_ONCE = 64  # whose sums are in memory


def bootstrap_resamples(
    aggregate: Callable[[Tensor], Tensor], scores: Float[Tensor, "b ..."], num_resamples: int = 1000
) -> Float[Tensor, " draws"]:
    """Return the aggregates of rows of scores that are resampled with replacement.

    The resampled rows depend on the number of rows alone, so resamples of two runs on the same images are paired.

    Source: Efron and Tibshirani 1993, chapter 13.
    """
    rows = torch.randint(len(scores), (num_resamples, len(scores)), generator=generator("bootstrap"))
    rows, inverse = rows.unique(dim=0, return_inverse=True)  # a few images are often resampled in the same order
    values = torch.stack([aggregate(scores[index]) for index in rows.to(scores.device)]).double()
    return values[inverse.to(values.device)]


def bootstrap_sums(
    aggregate: Callable[[Tensor], Tensor], scores: Float[Tensor, "b ..."], num_resamples: int = 1000
) -> Float[Tensor, " draws"]:
    """Return `bootstrap_resamples` of an aggregate that depends on the sum of the rows alone.

    Rows are summed by a product of matrices, which long rows need.
    """
    rows, values = scores.flatten(1).double(), []
    for counts in resample_counts(len(scores), num_resamples).to(rows).split(RESAMPLES_AT_ONCE):
        values += [aggregate(total.view(1, *scores.shape[1:])) for total in counts @ rows]
    return torch.stack(values).double()


def resample_counts(images: int, num_resamples: int) -> Float[Tensor, "draws b"]:
    """Return how often each resample of `bootstrap_resamples` holds each image."""
    rows = torch.randint(images, (num_resamples, images), generator=generator("bootstrap"))
    zeros = torch.zeros(num_resamples, images, dtype=torch.float64)
    return zeros.scatter_add_(1, rows, torch.ones_like(rows).double())


def percentile_interval(resamples: Float[Tensor, " draws"], level: float = 0.95) -> list[float]:
    """Return the low and high end of the central interval that holds `level` of the resamples.

    Those without a value are left out, such as those that hold no image of the domain of a metric.
    """
    ends, defined = torch.tensor([(1 - level) / 2, (1 + level) / 2]).to(resamples), resamples[~resamples.isnan()]
    return (defined if len(defined) else resamples).quantile(ends).tolist()


def influence_bootstrap(
    value: Float[Tensor, ""], influence: Float[Tensor, " b"], num_resamples: int
) -> Float[Tensor, " draws"]:
    """Return the first-order approximation of bootstrap resamples: value + mean(count * influence).

    `count` says how often a resample holds each image; the counts are those of `bootstrap_resamples`. A plain
    bootstrap is biased for distances between distributions: duplicates of images raise the distance, as fewer images
    do, and form pairs of an image with itself. To first order they do neither, and the standard deviation is that of
    the infinitesimal jackknife. The interval holds the expected value at this number of images.

    Args:
        value: Metric value of all images.
        influence: b times the derivative of the value by the weight of each image; its mean is 0.

    Source: Efron and Tibshirani 1993, chapter 21 (influence functions and the delta method).
    """
    counts = resample_counts(len(influence), num_resamples)
    return value + counts.to(influence) @ influence / len(influence)
