"""Samples of a trained run, judged by every metric, and the anchors to hold the figures against."""

import hashlib
import json
from contextlib import suppress
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningDataModule, Trainer
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from lumen.config.schema import Config
from lumen.core.errors import Mistake
from lumen.core.files import write, write_json
from lumen.core.hashing import fingerprint
from lumen.core.interfaces import Metric
from lumen.evaluation.anchors import ANCHORS
from lumen.evaluation.loop import Measurement
from lumen.evaluation.scores import Pieces, Samples, save_samples
from lumen.training.tasks.layout_to_image import LayoutModule

SHARED = {"real", "vae", "text"}  # those that no ControlNet has a part in


def judged(
    trainer: Trainer,
    data: LightningDataModule,
    module: LayoutModule,
    metrics: dict[str, Metric],
    config: Config,
    place: Path,
) -> dict[str, Any]:
    """Every figure of a trained run and of its anchors, with the protocol that they were measured by.

    What each image brought goes to samples.parquet in the run's folder. The anchors that are the same for every run
    of one protocol are measured once and kept in runs/anchors, as is what was seen of the real images.
    """
    if not metrics:
        return {}
    rules = protocol(data, module, metrics, config, trainer.precision)
    digest = _digest(rules | {"seed": config.seed})
    shared = Path(config.runs) / "anchors" / digest
    seen = shared / f"seen-{trainer.global_rank}-of-{trainer.world_size}.safetensors"
    _remember(metrics, seen)
    figures: dict[str, Any] = {"protocol": rules | {"hash": _digest(rules)}}
    found: dict[str, Samples] = {}
    for kind in ("test", *config.measure.anchors):
        file = shared / f"{kind}.json"
        known = json.loads(file.read_text()) if kind in SHARED and file.exists() else None
        known = trainer.strategy.broadcast(known)
        if known is None:
            pieces = Pieces(unfinished(place) / f"{digest}-{trainer.global_step}-{kind}")
            samples, sampling = config.measure.samples, rules["sampling"]
            one = Measurement(kind, module, metrics, samples, sampling, config.seed, data.other, pieces)
            trainer.test(one, datamodule=data, verbose=False)
            known, found[kind] = one.figures, one.found
        figures |= known
    if trainer.is_global_zero:
        save_samples(place / "samples.parquet", found)
        with suppress(Mistake):  # where they cannot be kept, the next run measures them again
            for kind in found.keys() & SHARED:
                write_json(shared / f"{kind}.json", {k: v for k, v in figures.items() if k.startswith(f"{kind}/")})
    with suppress(Mistake):
        write(seen, save({f"{name}/{i}": x for name, m in metrics.items() for i, x in m.reference_cache.items()}))
    return figures


def unfinished(place: Path) -> Path:
    """Where a measuring keeps what it has until metrics.json is written."""
    return place / "measuring"


def summary(figures: dict[str, Any]) -> str:
    """The figures of one run as lines: what it reaches with its interval, then its anchors."""
    lines = []
    for key in figures:
        kind, _, name = key.partition("/")
        if kind == "test" and not name.endswith("_95") and "/" not in name:
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
            name: config.metrics.get(name, {}) | {"evaluator": fingerprint(metric.evaluator)}
            for name, metric in metrics.items()
        },
        "images": min(config.measure.images, len(data.dataset(data.held_out))),
        "samples": config.measure.samples,
        "format": "8 bits, as in a PNG",
        "sampling": {key: value for key, value in asdict(config.sampling).items() if key != "images"},
        "size": config.size,
        # flips are for training, and a folder may move; all else decides what is looked at and as which class
        "data": {key: value for key, value in config.data.items() if key not in ("root", "flip")}
        | {"fingerprint": data.fingerprint(), "questions": _digest(data.asked) if data.asked else None},
        "diffusion": dict(module.diffusion.identity)
        | {"schedule": _digest(schedule), "scaling": pipeline.vae.config.scaling_factor},
        "lumen": version("lumen"),
        "precision": precision,
    }


def _digest(rules: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(rules, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _remember(metrics: dict[str, Metric], path: Path) -> None:
    """What an earlier run saw of the real images."""
    with suppress(OSError, SafetensorError):
        for key, value in load_file(path).items():
            name, _, identifier = key.partition("/")
            metrics[name].reference_cache[identifier] = value
