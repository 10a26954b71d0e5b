"""Linear probe: the class of every pixel from the features of a frozen backbone."""

import torch
import torch.nn.functional as F
from torch import nn

from lumen.core.interfaces import Backbone, Batch, Optimization, Task
from lumen.core.labels import IGNORE
from lumen.core.registry import tasks
from lumen.core.resize import resize


@tasks.register
class LabelProbe(Task):
    """Training of one linear layer to predict label maps."""

    output_kind = "labels"
    metrics = ("pixel_accuracy",)
    reference_rows = {"constant": "first class everywhere"}
    shared_rows = ("constant",)

    def __init__(
        self, dropout: float = 0.1, *, backbone: Backbone, classes: tuple, optimization: Optimization, seed: int = 0
    ):
        super().__init__(optimization, seed, backbone=backbone)
        self.dropout = nn.Dropout2d(dropout)
        self.probe = nn.Conv2d(backbone.channels, len(classes), 1)

    def cache_keys(self, arguments):
        return {"features": {"backbone": dict(self.frozen_networks["backbone"].identity)}}

    @torch.no_grad()
    def encode(self, name, batch):
        return self.frozen_networks["backbone"].features(batch.image)

    def logits(self, batch: Batch):
        features = batch.cached["features"].float() if batch.cached else self.encode("features", batch)
        return resize(self.probe(self.dropout(features)), tuple(batch.image.shape[-2:]))

    def training_step(self, batch, batch_idx):
        loss = F.cross_entropy(self.logits(batch), batch.mask, ignore_index=IGNORE)
        self.log("train/loss", loss, sync_dist=True, batch_size=len(batch.id))
        return loss

    def validation_step(self, batch, batch_idx):
        loss = F.cross_entropy(self.logits(batch), batch.mask, ignore_index=IGNORE)
        self.log("val/loss", loss, sync_dist=True, batch_size=len(batch.id))

    def num_outputs(self, row, samples):
        return 1

    @torch.no_grad()
    def outputs(self, batch, seeds, row="test", other=None, **sampling):
        labels = self.logits(batch).argmax(1, keepdim=True)
        return labels if row == "test" else torch.zeros_like(labels)
