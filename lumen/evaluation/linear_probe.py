"""Linear probes: what a linear map reads out of given numbers, and rows per image to judge it by."""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from lumen.features.moments import Moments

PENALTY = 1e-4  # of the squared weights, which see numbers of standard deviation 1
STEPS = 100  # of L-BFGS; twice as many change the third digit
CHUNK = 8192  # rows that are in float64 at a time


def regression(x: Float[Tensor, "n c"], y: Float[Tensor, "n t"]) -> Callable[[Float[Tensor, "m c"]], Tensor]:
    """Ridge regression of y on the standardised x, in closed form and float64; gives (m, t) for other rows.

    Minimises the mean squared error + PENALTY |w|^2: sklearn's Ridge with alpha = n PENALTY.
    """
    c = x.shape[1]
    moments = Moments(c + y.shape[1], x.device)
    for some in zip(x.split(CHUNK), y.split(CHUNK), strict=True):
        moments.update(torch.cat(some, dim=1))
    covariance, mean = moments.scatter / moments.count, moments.mean
    std = covariance.diagonal()[:c].sqrt().clamp(min=1e-6)
    penalty = PENALTY * torch.eye(c, dtype=std.dtype, device=std.device)
    weight = torch.linalg.solve(covariance[:c, :c] / std / std[:, None] + penalty, covariance[:c, c:] / std[:, None])
    return lambda rows: (rows.double() - mean[:c]) / std @ weight + mean[c:]


def classifier(x: Float[Tensor, "n c"], y: Float[Tensor, "n k"]) -> Callable[[Float[Tensor, "m c"]], Tensor]:
    """Multinomial regression of the shares y on the standardised x, which has one solution; gives (m, k) logits.

    Minimises the mean cross-entropy + PENALTY / 2 |w|^2: sklearn's LogisticRegression with C = 1 / (n PENALTY).
    """
    mean, std = x.mean(0), x.std(0).clamp(min=1e-6)
    cells = (x - mean) / std
    weight = torch.zeros(x.shape[1], y.shape[1], requires_grad=True)
    bias = torch.zeros(y.shape[1], requires_grad=True)
    solver = torch.optim.LBFGS([weight, bias], max_iter=STEPS, history_size=20, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        solver.zero_grad()
        value = F.cross_entropy(cells @ weight + bias, y) + PENALTY / 2 * weight.square().sum()
        value.backward()
        return value

    solver.step(loss)
    w, b = weight.detach(), bias.detach()
    return lambda rows: (rows - mean) / std @ w + b


def errors(truth: Float[Tensor, "n t"], found: Tensor, owner: Int[Tensor, " n"], images: int) -> Float[Tensor, "b 4 t"]:
    """Per image: how many rows it has, and the sums of truth, truth squared and error squared."""
    truth, found = truth.double(), found.double()
    each = torch.stack([torch.ones_like(truth), truth, truth.square(), (truth - found).square()], dim=1)
    return each.new_zeros(images, *each.shape[1:]).index_add(0, owner, each)


def explained(rows: Float[Tensor, "b 4 t"]) -> Float[Tensor, ""]:
    """R^2 over the rows of all images, the mean over targets: 1 is exact, 0 what their mean alone would reach."""
    count, total, squares, error = rows.sum(0)
    return (1 - error / (squares - total.square() / count)).mean()


def overlaps(
    truth: Int[Tensor, " n"], found: Int[Tensor, " n"], owner: Int[Tensor, " n"], images: int, classes: int
) -> Float[Tensor, "b 3 k"]:
    """Per image: rows of each class rightly found, found, and there."""
    truth, found = (F.one_hot(each, classes).double() for each in (truth, found))
    each = torch.stack([truth * found, found, truth], dim=1)
    return each.new_zeros(images, *each.shape[1:]).index_add(0, owner, each)


def mean_iou(rows: Float[Tensor, "b 3 k"]) -> Float[Tensor, ""]:
    """Intersection over union of every class that is there or was found, over all rows together; the mean of it."""
    right, found, truth = rows.sum(0)
    return (right / (found + truth - right)).nanmean()
