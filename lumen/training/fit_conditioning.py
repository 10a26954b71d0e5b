"""Fit of a conditioning whose parameters are estimated from training images."""

from collections.abc import Callable

from lightning.pytorch import LightningDataModule
from torch import Tensor

from lumen.core.interfaces import Conditioning


def fit(
    conditioning: Conditioning,
    data: LightningDataModule,
    seed: int,
    known: Callable[[int, Callable[[], Tensor]], Tensor] = lambda images, gather: gather(),
) -> None:
    """Fits a conditioning that is not fitted yet on as many training images as it wants.

    Args:
        known: gives what the second argument would gather of this many images, where it has been gathered before.
    """
    if conditioning.fitted:
        return
    images = len(data.dataset("train"))
    if conditioning.num_fit_images is not None:
        images = min(images, conditioning.num_fit_images)
    batches = (batch.to("cpu") for batch in data.sample_dataloader(images))
    gathered = known(images, lambda: conditioning.compute_statistics(batches, images, seed))
    conditioning.fit_from_statistics(gathered, seed, data.fingerprint())
