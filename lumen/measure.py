"""Samples of a trained run, judged by every metric, and the anchors to hold the figures against."""

import hashlib
import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from torch import Tensor, nn
from torchmetrics.utilities import dim_zero_cat

from lumen.contracts import Batch, Metric
from lumen.errors import Mistake
from lumen.files import write_json
from lumen.module import LayoutModule
from lumen.order import seed_of
from lumen.pipeline import latent
from lumen.schema import ANCHORS, Config
from lumen.weights import fingerprint

SHARED = ("real", "vae", "text")  # those that no ControlNet has a part in


def judged(
    trainer: Trainer, data: LightningDataModule, module: LayoutModule, metrics: dict[str, Metric], config: Config
) -> dict[str, Any]:
    """Every figure of a trained run and of its anchors, with the protocol that they were measured by.

    The anchors that are the same for every run of one protocol are measured once and kept in runs/anchors.
    """
    if not metrics:
        return {}
    rules = protocol(data, module, metrics, config, trainer.precision)
    kept = Path(config.runs) / "anchors" / f"{_digest(rules | {'seed': config.seed})}.json"
    known = trainer.strategy.broadcast(json.loads(kept.read_text()) if kept.exists() else {})
    figures: dict[str, Any] = {"protocol": rules | {"hash": _digest(rules)}}
    for kind in ("test", *config.measure.anchors):
        if kind not in known:
            measurement = Measurement(
                kind, module, metrics, config.measure.samples, rules["sampling"], config.seed, data.other
            )
            trainer.test(measurement, datamodule=data, verbose=False)
            known[kind] = measurement.figures
            if trainer.is_global_zero and kind in SHARED:
                with suppress(Mistake):  # where they cannot be kept, the next run measures them again
                    write_json(kept, {kind: known[kind] for kind in SHARED if kind in known})
        figures |= known[kind]
    return figures


def summary(figures: dict[str, Any]) -> str:
    """The figures of one run as lines: what it reaches with its interval, then its anchors."""
    lines = []
    for key in figures:
        kind, _, name = key.partition("/")
        if kind == "test" and not name.endswith("_95"):
            low, high = figures[f"{key}_95"]
            anchors = [f"{k} {figures[f'{k}/{name}']:.3g}" for k in ANCHORS if f"{k}/{name}" in figures]
            lines.append(f"{name:9s} {figures[key]:.3g} [{low:.3g}, {high:.3g}]   {', '.join(anchors)}".rstrip())
    return "\n".join(lines)


def protocol(
    data: LightningDataModule, module: LayoutModule, metrics: dict[str, Metric], config: Config, precision: str
) -> dict[str, Any]:
    """All that a figure depends on besides what was learnt and the seed: rows are compared under one protocol."""
    pipeline = module.diffusion.pipeline
    schedule = {key: value for key, value in pipeline.scheduler.config.items() if not key.startswith("_")}
    return {
        "metrics": {
            name: arguments | {"evaluator": fingerprint(metrics[name].evaluator)}
            for name, arguments in config.metrics.items()
        },
        "images": min(config.measure.images, len(data.dataset(data.held_out))),
        "samples": config.measure.samples,
        "sampling": {key: value for key, value in asdict(config.sampling).items() if key != "images"},
        "size": config.size,
        # flips are for training, and a folder may move; all else decides what is looked at and as which class
        "data": {key: value for key, value in config.data.items() if key not in ("root", "flip")}
        | {"fingerprint": data.fingerprint()},
        "diffusion": dict(module.diffusion.identity)
        | {"schedule": _digest(schedule), "scaling": pipeline.vae.config.scaling_factor},
        "lumen": version("lumen"),
        "precision": precision,
    }


def _digest(rules: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(rules, sort_keys=True, default=str).encode()).hexdigest()[:16]


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
    ):
        super().__init__()
        self.kind, self.module, self.sampling, self.seed, self.other = kind, module, sampling, seed, other
        self.count = 1 if kind in ("real", "vae") else samples
        self.judges = nn.ModuleDict({name: m for name, m in metrics.items() if m.samples <= self.count})
        self.figures: dict[str, float | list[float]] = {}

    def on_test_epoch_start(self) -> None:
        for judge in self.judges.values():
            judge.reset()

    def test_step(self, batch: Batch, index: int) -> None:
        layout = self.layout(batch)
        painted = torch.stack([self.paint(batch, layout, k) for k in range(self.count)], dim=1)
        for judge in self.judges.values():
            judge.update(batch, painted)

    def on_test_epoch_end(self) -> None:
        """Logs each figure and keeps it with its 95 % interval over images."""
        for name, judge in self.judges.items():
            with judge.sync_context():
                rows = dim_zero_cat(judge.rows)
            figure, key = judge.figure(rows), f"{self.kind}/{name}"
            self.log(key, figure.float(), rank_zero_only=True)
            self.figures |= {key: float(figure), f"{key}_95": judge.interval(rows)}

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
        seeds = [seed_of(self.seed, "measure", i, k) for i in batch.id]
        size = tuple(batch.image.shape[-2:])
        return self.module.diffusion.sample(batch.caption, layout, seeds, size, **self.sampling)

    def _round_trip(self, image: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b 3 H W"]:
        diffusion = self.module.diffusion
        with torch.autocast(image.device.type, enabled=False):
            return diffusion.decoded(latent(diffusion.pipeline.vae, image.float()))
