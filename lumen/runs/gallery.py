"""Pictures of evaluated samples: each is generated again from its own seed, to the bits that were scored."""

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float
from lightning.pytorch import LightningDataModule
from torch import Tensor

from lumen.config.schema import Config
from lumen.core.errors import BadConfig
from lumen.core.interfaces import Batch, Task
from lumen.evaluation.loop import round_to_bytes, sample_seeds
from lumen.runs.build import HALF_PRECISION, build_task, device, precision
from lumen.runs.checkpoints import restore, select_checkpoint
from lumen.runs.data import build_data
from lumen.runs.directory import trained_run


class Pictures(NamedTuple):
    """Pictures of a sample, in [-1, 1].

    Attributes:
        image: The reference image.
        layout: Picture of what steered the sample; None if the task has none.
        sample: The sample as it was scored, rounded to 256 levels.
    """

    image: Float[Tensor, "3 H W"]
    layout: Float[Tensor, "3 h w"] | None
    sample: Float[Tensor, "3 H W"]


def regenerate_samples(
    run: Path, config: Config, samples: Iterable[tuple[str, int]]
) -> tuple[dict[tuple[str, int], Pictures], str]:
    """Return the pictures of samples that an evaluation has scored, by (image id, sample), and the layouts' legend.

    They equal what was scored to the bit where the device, the batch size and the versions of the libraries are those
    of the evaluation.

    Args:
        run: Directory of a run, or of a further evaluation of one.
        config: Its config.

    Raises:
        BadConfig: The run does not generate images, or its data set lacks an image.
    """
    samples = list(dict.fromkeys(samples))
    data, task = _load_evaluated(run, config)
    pictures: dict[tuple[str, int], Pictures] = {}
    for batch in data.find_eval_batches({image for image, _ in samples}, config.devices * config.nodes):
        for sample in sorted({k for image, k in samples if image in batch.id}):
            pictures |= _regenerate_batch(task, config, batch.to(task.device), sample)
    if missing := next((image for image, k in samples if (image, k) not in pictures), None):
        raise BadConfig(
            f"{run} has scored '{missing}', which its data set lacks; name its directory with data.root=DIR."
        )
    return {key: pictures[key] for key in samples}, task.legend


def _load_evaluated(run: Path, config: Config) -> tuple[LightningDataModule, Task]:
    """Return the data and the task of an evaluation, with the weights that were evaluated."""
    checkpoint = select_checkpoint(trained_run(run), config)
    data = build_data(config)
    task = build_task(config, data).eval()
    if task.output_kind != "images":
        raise BadConfig(f"{run} predicts {task.output_kind}, not images; name a run that generates images.")
    restore(task, checkpoint)
    return data, task.to(device(config))


@torch.no_grad()
def _regenerate_batch(task: Task, config: Config, batch: Batch, sample: int) -> dict[tuple[str, int], Pictures]:
    """Return the pictures of one sample of each image of a batch, under the precision of the run."""
    sampling = {key: value for key, value in asdict(config.sampling).items() if key != "images"}
    seeds = sample_seeds(config.seed, batch.id, sample + 1)[-1:]
    dtype = HALF_PRECISION[precision(config)]
    with torch.autocast(task.device.type, dtype, enabled=dtype is not None):
        generated = round_to_bytes(task.outputs(batch, seeds, **sampling))[:, 0].float().cpu()
        layouts = task.visualize(batch)
    images = batch.image.cpu()
    layouts = [None] * len(images) if layouts is None else (layouts.float() * 2 - 1).cpu()
    keys = [(image_id, sample) for image_id in batch.id]
    return dict(zip(keys, map(Pictures, images, layouts, generated), strict=True))
