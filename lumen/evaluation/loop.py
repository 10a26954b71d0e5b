"""One pass over held-out images: what is painted of them, and what it brings to every metric."""

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torchmetrics.utilities import dim_zero_cat

from lumen.core.errors import Diverged
from lumen.core.interfaces import Batch, Metric
from lumen.core.random import stable_seed
from lumen.diffusion.stable_diffusion import latent
from lumen.evaluation.scores import Pieces, Samples
from lumen.training.tasks.layout_to_image import LayoutModule


class Measurement(LightningModule):
    """One pass over held-out images: what is painted of them, and how it is judged.

    Every pass has the same images, captions and noise, so its figures differ by what is painted alone.

    Args:
        kind: "test" paints each image by its own layout and caption. The anchors: "real" is the image itself,
            "vae" what the autoencoder keeps of it (the ceiling), "text" a sample by the caption alone,
            "shuffled" one by its caption and the layout of another image (the floor).
        samples: of each image; an anchor without noise has one.
        sampling: arguments of `ControlledDiffusion.sample`.
        other: gives for a batch another image of each image's set, always the same one.
        pieces: where the rows of each batch are kept until the pass is whole.
    """

    def __init__(
        self,
        kind: str,
        module: LayoutModule,
        metrics: dict[str, Metric],
        samples: int,
        sampling: dict[str, Any],
        seed: int,
        other: Callable[[Batch], Batch],
        pieces: Pieces,
    ):
        super().__init__()
        self.kind, self.module, self.sampling, self.seed, self.other = kind, module, sampling, seed, other
        self.pieces = pieces
        self.count = 1 if kind in ("real", "vae") else samples
        self.judges = nn.ModuleDict({m.key: m for m in metrics.values() if m.samples_per_image <= self.count})
        self.names: list[tuple[str, str]] = []  # id and caption of each image of this rank
        self.found: Samples | None = None
        self.figures: dict[str, float | list[float]] = {}

    def on_test_epoch_start(self) -> None:
        self.names = []
        for judge in self.judges.values():
            judge.reset()

    def test_step(self, batch: Batch, index: int) -> None:
        rows = self.pieces.load(batch.id)
        if rows is None:
            painted = self.painted(batch)
            rows = {title: judge.score(batch, painted) for title, judge in self.judges.items()}
            self.pieces.save(batch.id, rows)
        self.names += zip(batch.id, batch.caption, strict=True)
        for title, judge in self.judges.items():
            judge.rows.append(rows[title].to(self.device))

    def on_test_epoch_end(self) -> None:
        """Logs each figure and keeps it with its 95 % interval over images."""
        rows = {}
        for title, judge in self.judges.items():
            with judge.sync_context():
                rows[title] = dim_zero_cat(judge.rows)
        ids, captions = zip(*_gathered(self.names), strict=True)
        self.found = Samples(list(ids), list(captions), rows)
        for title, judge in self.judges.items():
            rows, key = self.found.rows[title], f"{self.kind}/{title}"
            figures = {key: judge.aggregate(rows)} | {f"{key}/{name}": part for name, part in judge.breakdown(rows).items()}
            self.log_dict({name: figure.float() for name, figure in figures.items()}, rank_zero_only=True)
            self.figures |= {name: float(figure) for name, figure in figures.items()}
            self.figures[f"{key}_95"] = judge.interval(rows)

    def painted(self, batch: Batch) -> Float[Tensor, "b n 3 H W"]:
        """All samples of every image of the batch, in the 256 levels of a PNG: they are judged as files would be.

        Raises:
            Diverged: they are not finite numbers.
        """
        layout = self.layout(batch)
        painted = torch.stack([self.paint(batch, layout, k) for k in range(self.count)], dim=1)
        if not bool(painted.isfinite().all()):
            bad = [i for i, some in zip(batch.id, painted, strict=True) if not bool(some.isfinite().all())]
            raise Diverged(
                f"samples of {bad[0]} ({self.kind}) are not finite numbers, so nothing can be measured; set "
                "precision=32-true, or lower sampling.guidance."
            )
        return ((painted + 1) * 127.5).round().clamp(0, 255) / 127.5 - 1

    @torch.no_grad()
    def layout(self, batch: Batch) -> Float[Tensor, "b k h w"] | None:
        """What the ControlNet is shown."""
        if self.kind == "test":
            return self.module.conditioning(batch)
        if self.kind == "shuffled":
            return self.module.conditioning(self.other(batch).to(batch.image.device))
        return None

    @torch.no_grad()
    def paint(self, batch: Batch, layout: Float[Tensor, "b k h w"] | None, k: int) -> Float[Tensor, "b 3 H W"]:
        """The k-th picture of every image of the batch."""
        if self.kind == "real":
            return batch.image
        if self.kind == "vae":
            return self._round_trip(batch.image)
        seeds = [stable_seed(self.seed, "measure", i, k) for i in batch.id]
        size = tuple(batch.image.shape[-2:])
        return self.module.diffusion.sample(batch.caption, layout, seeds, size, **self.sampling)

    def _round_trip(self, image: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b 3 H W"]:
        diffusion = self.module.diffusion
        with torch.autocast(image.device.type, enabled=False):
            return diffusion.decoded(latent(diffusion.pipeline.vae, image.float()))


def _gathered(names: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Those of every rank, in the order in which torchmetrics gathers states."""
    if not dist.is_initialized():
        return names
    every: list[list[tuple[str, str]]] = [[] for _ in range(dist.get_world_size())]
    dist.all_gather_object(every, names)
    return [name for some in every for name in some]
