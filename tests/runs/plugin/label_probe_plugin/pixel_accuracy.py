"""Pixel accuracy: the share of pixels whose predicted class is that of the label map."""

import torch
from torch import nn

from lumen.core.interfaces import Metric
from lumen.core.labels import IGNORE
from lumen.core.registry import metrics


@metrics.register
class PixelAccuracy(Metric):
    """Share of labelled pixels that are predicted correctly."""

    higher_is_better = True
    output_kind = "labels"

    def __init__(self):
        super().__init__(nn.Identity())

    def per_image(self, batch, generated):
        labelled = batch.mask != IGNORE
        correct = (generated[:, 0] == batch.mask) & labelled
        return torch.stack([correct.sum((1, 2)), labelled.sum((1, 2))], dim=1).float()

    @staticmethod
    def aggregate(scores):
        correct, labelled = scores.double().sum(0)
        return correct / labelled
