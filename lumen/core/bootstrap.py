"""Bootstrap resamples and confidence intervals."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from lumen.core.random import generator


def bootstrap_resamples(
    figure: Callable[[Tensor], Tensor], rows: Float[Tensor, "b ..."], draws: int = 1000
) -> Float[Tensor, " draws"]:
    """Figures of as many rows, one per image, drawn anew with replacement: the bootstrap.

    The draws are the same wherever there are as many images: figures of two runs come in pairs.

    Source: Efron and Tibshirani 1993, chapter 13.
    """
    draw = torch.randint(len(rows), (draws, len(rows)), generator=generator("bootstrap")).to(rows.device)
    return torch.stack([figure(rows[some]) for some in draw]).double()


def percentile_interval(bootstrap_resamples: Float[Tensor, " draws"], share: float = 0.95) -> list[float]:
    """Where the middle `share` of figures lies: the percentile interval."""
    return bootstrap_resamples.quantile(torch.tensor([(1 - share) / 2, (1 + share) / 2]).to(bootstrap_resamples)).tolist()


def influence_bootstrap(figure: Float[Tensor, ""], influence: Float[Tensor, " b"], draws: int) -> Float[Tensor, " draws"]:
    """Figures of b images drawn anew, to first order: the figure + mean(c * influence), image i being drawn c_i times.

    A plain bootstrap would be off: copies of images raise a distance of distributions, as fewer images do, and make
    pairs of one image with itself. To first order they do neither, and the deviation is that of the infinitesimal
    jackknife. The interval holds the expected figure at this number of images.

    Args:
        influence: b times the derivative of the figure by each image's share of the whole; its mean is 0.

    Source: Efron and Tibshirani 1993, chapter 21 (influence functions and the delta method).
    """
    images = len(influence)
    # the draws of Metric.drawn, as counts
    bootstrap_resamples = torch.randint(images, (draws, images), generator=generator("bootstrap"))
    counts = torch.zeros(draws, images, dtype=torch.float64).scatter_add_(1, bootstrap_resamples, torch.ones_like(bootstrap_resamples).double())
    return figure + counts.to(influence) @ influence / images
