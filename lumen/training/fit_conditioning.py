"""Fit of a conditioning whose parameters are estimated from training images."""

from collections.abc import Callable

from lightning.pytorch import LightningDataModule
from torch import Tensor

from lumen.core.interfaces import Conditioning


def fit_conditioning(
    conditioning: Conditioning,
    data: LightningDataModule,
    seed: int,
    cached: Callable[..., Tensor] | None = None,
) -> None:
    """Fit a conditioning to as many training images as it needs, unless it is fitted already.

    Args:
        cached: Function of (key, number of images, compute) that returns cached statistics, or computes them.
    """
    if conditioning.fitted:
        return
    images = len(data.dataset("train"))
    if conditioning.num_fit_images is not None:
        images = min(images, conditioning.num_fit_images)

    def compute() -> Tensor:
        batches = (batch.to("cpu") for batch in data.sample_dataloader(images))
        return conditioning.compute_statistics(batches, images, seed)

    key = {"conditioning": conditioning.statistics_key}
    statistics = cached(key, images, compute) if cached else compute()
    conditioning.fit_from_statistics(statistics, seed, data.source.fingerprint())
