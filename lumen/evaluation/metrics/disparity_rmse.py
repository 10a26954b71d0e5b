"""Disparity RMSE: error of predicted disparity, in pixels of the original frames."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lumen.core.interfaces import Batch, Metric
from lumen.core.registry import metrics

MAX_DISPARITY_PX = 80  # of pixels that count, in the original frame
MIN_PREDICTION_PX = 1e-9  # in place of predictions that are not positive


@metrics.register
class DisparityError(Metric):
    """Root of the mean squared error over all pixels of all images together, whose disparity is above 0 and below 80.

    Disparities of a batch are in pixels of the resized image; they are compared in those of the original frame.

    Source: prismformore/Multi-Task-Transformer, TaskPrompter/evaluation/eval_depth.py and utils/config.py.
    """

    higher_is_better = False
    display_name = "disparity RMSE"
    output_kind = "disparity"
    annotation = "disparity"

    def __init__(self):
        super().__init__(nn.Identity())

    def per_sample(self, batch: Batch, generated: Float[Tensor, "b n H W"]) -> Float[Tensor, "b n 2"]:
        """Return the sum of squared errors, and the pixels that count; an image without a file has none."""
        rows = torch.zeros(*generated.shape[:2], 2, dtype=torch.float64, device=generated.device)
        nothing = [None] * len(batch.id)
        truths, frames = (batch.extra.get(kind, nothing) for kind in (self.annotation, "frame"))
        for row, truth, frame, samples in zip(rows, truths, frames, generated.double(), strict=True):
            if truth is None:
                continue
            scale = 1 if frame is None else frame.scale
            truth, samples = truth.to(samples) / scale, samples / scale
            counts = (truth > 0) & (truth < MAX_DISPARITY_PX)  # NaN is neither
            error = torch.where(samples > 0, samples, MIN_PREDICTION_PX)[:, counts] - truth[counts]
            row[:, 0], row[:, 1] = error.square().sum(1), counts.sum()
        return rows

    @staticmethod
    def combine(scores: Float[Tensor, "b n 2"]) -> Float[Tensor, "b 2"]:
        """Return the sums over all samples of each image."""
        return scores.sum(1)

    @staticmethod
    def aggregate(scores: Float[Tensor, "b 2"]) -> Float[Tensor, ""]:
        """Return the error over all pixels."""
        squares, pixels = scores.double().sum(0)
        return (squares / pixels).sqrt()

    def columns(self, shape: tuple[int, ...]) -> list[str]:
        """Return the names of the two sums."""
        return ["squared_error", "pixels"]
