"""Linear probes: ridge and multinomial regression, and scores per image of their predictions."""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from lumen.features.moments import Moments

PENALTY = 1e-4  # of the squared weights, for inputs of standard deviation 1
LBFGS_STEPS = 100  # twice as many change the third digit
CHUNK_ROWS = 8192  # converted to float64 at a time


def fit_ridge(x: Float[Tensor, "n c"], y: Float[Tensor, "n t"]) -> Callable[[Float[Tensor, "m c"]], Tensor]:
    """Fit ridge regression of y on the standardised x, in closed form and float64.

    Minimises the mean squared error + PENALTY |w|^2: sklearn's Ridge with alpha = n PENALTY.

    Returns:
        Function from other rows of x to predictions (m, t).
    """
    c = x.shape[1]
    moments = Moments(c + y.shape[1], x.device)
    for chunk in zip(x.split(CHUNK_ROWS), y.split(CHUNK_ROWS), strict=True):
        moments.update(torch.cat(chunk, dim=1))
    covariance, mean = moments.scatter / moments.count, moments.mean
    std = covariance.diagonal()[:c].sqrt().clamp(min=1e-6)
    penalty = PENALTY * torch.eye(c, dtype=std.dtype, device=std.device)
    weight = torch.linalg.solve(covariance[:c, :c] / std / std[:, None] + penalty, covariance[:c, c:] / std[:, None])
    return lambda inputs: (inputs.double() - mean[:c]) / std @ weight + mean[c:]


def fit_classifier(x: Float[Tensor, "n c"], y: Float[Tensor, "n k"]) -> Callable[[Float[Tensor, "m c"]], Tensor]:
    """Fit multinomial regression of the class shares y on the standardised x; the solution is unique.

    Minimises the mean cross-entropy + PENALTY / 2 |w|^2: sklearn's LogisticRegression with C = 1 / (n PENALTY).

    Returns:
        Function from other rows of x to logits (m, k).
    """
    mean, std = x.mean(0), x.std(0).clamp(min=1e-6)
    standardised = (x - mean) / std
    weight = torch.zeros(x.shape[1], y.shape[1], requires_grad=True)
    bias = torch.zeros(y.shape[1], requires_grad=True)
    solver = torch.optim.LBFGS([weight, bias], max_iter=LBFGS_STEPS, history_size=20, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        solver.zero_grad()
        value = F.cross_entropy(standardised @ weight + bias, y) + PENALTY / 2 * weight.square().sum()
        value.backward()
        return value

    solver.step(loss)
    w, b = weight.detach(), bias.detach()
    return lambda inputs: (inputs - mean) / std @ w + b


def squared_error_sums(
    target: Float[Tensor, "n t"], prediction: Tensor, image_index: Int[Tensor, " n"], num_images: int
) -> Float[Tensor, "b 4 t"]:
    """Return per image its number of rows, and the sums of target, squared target and squared error.

    Args:
        image_index: Image that each row belongs to.
    """
    target, prediction = target.double(), prediction.double()
    terms = torch.stack([torch.ones_like(target), target, target.square(), (target - prediction).square()], dim=1)
    return terms.new_zeros(num_images, *terms.shape[1:]).index_add(0, image_index, terms)


def r_squared(scores: Float[Tensor, "b 4 t"]) -> Float[Tensor, ""]:
    """Return R^2 over the rows of all images, averaged over targets: 1 is exact, 0 equals predicting the mean."""
    count, total, squares, error = scores.sum(0)
    return (1 - error / (squares - total.square() / count)).mean()


def class_counts(
    target: Int[Tensor, " n"],
    prediction: Int[Tensor, " n"],
    image_index: Int[Tensor, " n"],
    num_images: int,
    classes: int,
) -> Float[Tensor, "b 3 k"]:
    """Return per image and class its rows that are predicted correctly, predicted, and labelled.

    Args:
        image_index: Image that each row belongs to.
    """
    target, prediction = (F.one_hot(label, classes).double() for label in (target, prediction))
    counts = torch.stack([target * prediction, prediction, target], dim=1)
    return counts.new_zeros(num_images, *counts.shape[1:]).index_add(0, image_index, counts)


def mean_iou(scores: Float[Tensor, "b 3 k"]) -> Float[Tensor, ""]:
    """Return the mean intersection over union, over all rows together, of the classes labelled or predicted."""
    intersection, predicted, labelled = scores.sum(0)
    return (intersection / (predicted + labelled - intersection)).nanmean()
