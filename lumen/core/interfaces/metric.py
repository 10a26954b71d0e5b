"""Metric: scores of a task's outputs against their references."""

from collections.abc import Callable

import torch
import torchmetrics
from jaxtyping import Float
from torch import Tensor, nn
from torchmetrics.utilities import dim_zero_cat

from lumen.core.bootstrap import bootstrap_resamples, percentile_interval
from lumen.core.interfaces.batch import Batch

REFERENCE_CACHE_BYTES = 2**30  # network outputs of reference images that one metric may hold


class Metric(torchmetrics.Metric):
    """Score of generated images against their references.

    Subclasses implement `per_image`, which returns one row of scores per reference image, and the static `aggregate`,
    which reduces any number of rows to the metric. Because rows are kept, confidence intervals and paired comparisons
    between runs follow by bootstrap over images. Ranks are concatenated; no image is counted twice.

    Args:
        evaluator: Frozen network used for scoring. It follows the images to their device.

    Attributes:
        output_kind: Kind of outputs that the metric scores; it fits tasks of the same kind.
        samples_per_image: Generated images that `per_image` needs for each reference.
        min_samples: Samples needed over all images; with fewer, `fallback` is reported instead.
        num_resamples: Bootstrap resamples of an interval.
        compares_distributions: Whether a single image has no value.
    """

    higher_is_better: bool
    full_state_update = False
    output_kind = "images"
    samples_per_image = 1
    min_samples = 1
    fallback: str | None = None
    num_resamples = 1000
    compares_distributions = False

    def __init__(self, evaluator: nn.Module):
        super().__init__()
        # A tuple keeps it out of parameters, state and copies.
        self._frozen = (evaluator.requires_grad_(False).eval(),)
        self.reference_cache: dict[str, Tensor] = {}  # by image id
        self.rows: list[Tensor]
        self.add_state("rows", [], dist_reduce_fx="cat")

    @property
    def evaluator(self) -> nn.Module:
        """Frozen network used for scoring."""
        return self._frozen[0]

    @property
    def key(self) -> str:
        """Name of the metric's values. A metric under another network than the published one carries that name."""
        return type(self).__module__.rpartition(".")[2]

    def per_image(self, batch: Batch, generated: Float[Tensor, "b n 3 H W"]) -> Float[Tensor, "b ..."]:
        """Return the scores of n generated images for each reference; images are in [-1, 1]."""
        raise NotImplementedError(f"{type(self).__name__} must implement per_image()")

    @staticmethod
    def aggregate(scores: Float[Tensor, "b ..."]) -> Float[Tensor, ""]:
        """Return the metric of any number of rows."""
        raise NotImplementedError("a metric must implement aggregate()")

    def image_values(self, scores: Float[Tensor, "b ..."]) -> Float[Tensor, " b"]:
        """Return the metric of each image alone."""
        return torch.stack([self.aggregate(row) for row in scores.split(1)])

    def breakdown(self, scores: Float[Tensor, "b ..."]) -> dict[str, Float[Tensor, ""]]:
        """Return parts of the metric by name, such as one value per class."""
        return {}

    def cached_reference(self, batch: Batch, network: Callable[[Tensor], Tensor]) -> Tensor:
        """Return the network's outputs (b, ...) of reference images; each image is computed once per process."""
        new = [n for n, i in enumerate(batch.id) if i not in self.reference_cache]
        outputs = dict(zip([batch.id[n] for n in new], network(batch.image[new]).cpu(), strict=True)) if new else {}
        cache = self.reference_cache | outputs
        if sum(output.nbytes for output in cache.values()) < REFERENCE_CACHE_BYTES:
            self.reference_cache = cache
        return torch.stack([cache[i] for i in batch.id]).to(batch.image.device)

    def score(self, batch: Batch, generated: Tensor) -> Float[Tensor, "b ..."]:
        """Return `per_image`, computed in fp32 whatever the precision of training."""
        self.evaluator.to(generated.device)
        with torch.no_grad(), torch.autocast(generated.device.type, enabled=False):
            return self.per_image(batch, generated.float() if generated.is_floating_point() else generated)

    def update(self, batch: Batch, generated: Tensor) -> None:
        """Append the scores of a batch."""
        self.rows.append(self.score(batch, generated))

    def compute(self) -> Float[Tensor, ""]:
        """Return the metric of all rows."""
        return self.aggregate(dim_zero_cat(self.rows))

    @classmethod
    def bootstrap_resamples(cls, scores: Float[Tensor, "b ..."]) -> Float[Tensor, " draws"]:
        """Return the metric of bootstrap resamples of the images."""
        return bootstrap_resamples(cls.aggregate, scores, cls.num_resamples)

    @classmethod
    def interval(cls, scores: Float[Tensor, "b ..."]) -> list[float]:
        """Return the 95 % confidence interval over images."""
        return percentile_interval(cls.bootstrap_resamples(scores))
