"""Metric: scores of a task's outputs against their references."""

import math
from collections.abc import Callable

import torch
import torchmetrics
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torchmetrics.utilities import dim_zero_cat

from lumen.core.bootstrap import bootstrap_resamples, percentile_interval
from lumen.core.interfaces.batch import Batch

REFERENCE_CACHE_BYTES = 2**30  # network outputs of reference images that one metric may hold


class Metric(torchmetrics.Metric):
    """Score of generated images against their references.

    Subclasses implement `per_sample`, which returns one row of scores per generated image. Where samples have no scores
    of their own, they implement `per_image`, which returns one row per reference image. The static `aggregate` reduces
    the rows of any number of images to the metric. Because rows are kept, confidence intervals and paired comparisons
    between runs follow by bootstrap over images. Ranks are concatenated; no image is counted twice.

    Args:
        evaluator: Frozen network used for scoring. It follows the images to their device.

    Attributes:
        display_name: Name for readers, such as mIoU; "" stands for the name in a config.
        output_kind: Kind of outputs that the metric scores; it fits tasks of the same kind.
        annotation: Kind of `Batch.extra` that outputs are compared with, if any; some images may lack it.
        samples_per_image: Generated images needed for each reference.
        min_samples: Samples needed over all images; with fewer, `fallback` is reported instead.
        num_resamples: Bootstrap resamples of an interval.
        compares_distributions: Whether a single image has no value.
        evaluator_gflop: GFLOP of published networks on one image, by the argument that names each, for cost estimates.
    """

    display_name = ""
    higher_is_better: bool
    full_state_update = False
    output_kind = "images"
    annotation: str | None = None
    samples_per_image = 1
    min_samples = 1
    fallback: str | None = None
    num_resamples = 1000
    compares_distributions = False
    evaluator_gflop: dict[str, float] = {}

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

    def per_sample(self, batch: Batch, generated: Shaped[Tensor, "b n ..."]) -> Float[Tensor, "b m ..."]:
        """Return the scores of each of the n generated images; m is n, or 1 if all samples of an image share theirs.

        Images (b, n, 3, H, W) are in [-1, 1].
        """
        return self.per_image(batch, generated)[:, None]

    def per_image(self, batch: Batch, generated: Shaped[Tensor, "b n ..."]) -> Float[Tensor, "b ..."]:
        """Return the scores of the n generated images of each reference together."""
        if type(self).per_sample is Metric.per_sample:
            raise NotImplementedError(f"{type(self).__name__} must implement per_sample() or per_image()")
        return self.combine(self.per_sample(batch, generated))

    @staticmethod
    def combine(scores: Float[Tensor, "b m ..."]) -> Float[Tensor, "b ..."]:
        """Return the scores of each image from those of its samples."""
        return scores[:, 0] if scores.shape[1] == 1 else scores.mean(1)

    @staticmethod
    def aggregate(scores: Float[Tensor, "b ..."]) -> Float[Tensor, ""]:
        """Return the metric of the scores of any number of images."""
        raise NotImplementedError("a metric must implement aggregate()")

    @classmethod
    def image_values(cls, scores: Float[Tensor, "b ..."]) -> Float[Tensor, " b"]:
        """Return the metric of each image alone."""
        return torch.stack([cls.aggregate(row) for row in scores.split(1)])

    @classmethod
    def sample_values(cls, scores: Float[Tensor, "b m ..."]) -> Float[Tensor, "b m"]:
        """Return the metric of each sample alone."""
        return cls.image_values(cls.combine(scores.flatten(0, 1)[:, None])).view(scores.shape[:2])

    def columns(self, shape: tuple[int, ...]) -> list[str]:
        """Return the name of each number in the scores of a sample, such as "sky.union"; "" is the metric's own.

        Args:
            shape: Shape of the scores of a sample.
        """
        return [str(number) for number in range(math.prod(shape))] if shape else [""]

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
        """Return the scores of each image."""
        return self.combine(self.score_samples(batch, generated))

    def score_samples(self, batch: Batch, generated: Tensor) -> Float[Tensor, "b m ..."]:
        """Return `per_sample`, computed in fp32 whatever the precision of training."""
        self.evaluator.to(generated.device)
        with torch.no_grad(), torch.autocast(generated.device.type, enabled=False):
            return self.per_sample(batch, generated.float() if generated.is_floating_point() else generated)

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
    def interval(cls, scores: Float[Tensor, "b ..."]) -> list[float] | None:
        """Return the 95 % confidence interval over images; None where no resample has a value."""
        resamples = cls.bootstrap_resamples(scores)
        return None if bool(resamples.isnan().all()) else percentile_interval(resamples)
