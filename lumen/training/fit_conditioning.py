"""Fit of a conditioning whose parameters are estimated from training images."""

from collections.abc import Callable, Iterator

from lightning.pytorch import LightningDataModule
from torch import Tensor

from lumen.core.interfaces import Batch, Conditioning
from lumen.core.progress import Phase


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
    images = data.num_images(conditioning.num_fit_images)

    def compute() -> Tensor:
        trainer = data.trainer
        is_shown, num_ranks = (trainer is None or trainer.is_global_zero), (trainer.world_size if trainer else 1)
        with Phase("fitting the layout to features of", images, "images", is_shown=is_shown) as phase:

            def batches() -> Iterator[Batch]:
                for batch in data.sample_dataloader(images):
                    yield batch.to("cpu")
                    phase.advance(len(batch.id) * num_ranks)

            return conditioning.compute_statistics(batches(), images, seed)

    key = {"conditioning": conditioning.statistics_key}
    statistics = cached(key, images, compute) if cached else compute()
    conditioning.fit_from_statistics(statistics, seed, data.source.fingerprint())
