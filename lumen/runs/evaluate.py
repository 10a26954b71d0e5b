"""Evaluation of a trained run."""

import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningDataModule, Trainer

from lumen.config.schema import Config
from lumen.core import locks
from lumen.core.errors import BadCheckpoint, BadConfig
from lumen.core.files import write_json
from lumen.core.interfaces import Metric
from lumen.core.signals import listening
from lumen.evaluation.evaluate import judged, summary, unfinished
from lumen.runs import directory as folder
from lumen.runs import provenance
from lumen.runs.build import build_data, build_metrics, build_module
from lumen.runs.trainer import at_step, first, make_trainer
from lumen.training import checkpoint_io as checkpoints
from lumen.training import loggers as tracking
from lumen.training.callbacks import Average, Pictures, learning
from lumen.training.tasks.layout_to_image import LayoutModule

# What a trained run can be measured anew with; all else was decided when it was trained.
MEASURED = ("sampling", "metrics", "measure", "data", "validation", "batch", "workers", "seed", "precision",
            "accelerator", "devices", "nodes", "strategy", "wandb", "project", "best", "stop_after")  # fmt: skip


def evaluate(place: Path, config: Config) -> dict[str, Any]:
    """Measures a trained run again under changed settings, into a folder of its own within the run's."""
    fixed_keys = [key for key in config.flags if not key.startswith(MEASURED)]
    if fixed_keys:
        raise BadConfig(
            f"{fixed_keys[0]} was decided when {place} was trained; lumen eval changes {', '.join(MEASURED)}, "
            "lumen train makes another run."
        )
    start = trained(place, config)
    out = folder.eval_of(place, config)
    with (
        listening(config.stop_after) as ear,
        locks.claim(out) if first() else nullcontext(),
        tracking.closing(),
    ):
        data = _checked(build_data(config), config)
        module, judges = build_module(config, data), build_metrics(config, data)
        restore(module, start)
        if first():
            folder.settle(out, config)
        trainer = make_trainer(config, data, module, out, start, ear, "eval")
        if trainer.is_global_zero:
            write_json(out / "provenance.json", provenance.provenance("eval", str(place), config, _facts(data, module)))
        with _interruptible():
            at_step(trainer, checkpoints.step_of(start))
            return _measure(trainer, data, module, judges, config, out)


def trained(place: Path, config: Config) -> Path:
    """The checkpoint that a run is looked at by: its newest, or its best where the command says best=val/loss.

    Raises:
        BadCheckpoint: there is none that can be used.
    """
    if config.flags.get("best"):
        return checkpoints.best(place / "checkpoints", config.flags["best"])
    newest = checkpoints.newest(place / "checkpoints")
    if newest is None:
        raise BadCheckpoint(f"{place} has no checkpoint yet; repeat its lumen train command first.")
    return newest


def restore(module: LayoutModule, path: Path) -> None:
    """Puts a checkpoint's weights into a module: the averaged ones where the run kept an average."""
    checkpoint = checkpoints.read(path)
    module.on_load_checkpoint(checkpoint)
    module.load_state_dict(checkpoint["state_dict"])
    averaged = checkpoint.get("callbacks", {}).get(Average.__name__)
    if averaged:
        with torch.no_grad():
            for weight, average in zip(learning(module), averaged["shadow_params"], strict=True):
                weight.copy_(average)


def _measure(
    trainer: Trainer,
    data: LightningDataModule,
    module: LayoutModule,
    judges: dict[str, Metric],
    config: Config,
    place: Path,
) -> dict[str, Any]:
    """Validates, draws the last grid, judges samples, and writes metrics.json: the mark of a finished run."""
    pictures = next(c for c in trainer.callbacks if isinstance(c, Pictures))
    step = trainer.fit_loop.epoch_loop._batches_that_stepped
    if pictures.step != trainer.global_step:  # else training has just ended with a validation
        trainer.validate(module, datamodule=data, verbose=False, weights_only=True)
    figures = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("val/")}
    figures |= module.conditioning.summary_metrics()
    figures |= judged(trainer, data, module, judges, config, place)
    drawn = {"images": pictures.count, **pictures.sampling}
    result = {"steps": step, "sampling": drawn, "precision": trainer.precision, **figures}
    if trainer.is_global_zero:
        basis = getattr(module.conditioning, "basis", None)
        if basis is not None:
            basis().save(place / "basis.safetensors")
        write_json(place / "metrics.json", result)
        shutil.rmtree(unfinished(place), ignore_errors=True)
        print("\n".join(filter(None, [f"val/loss  {result['val/loss']:.4f}", summary(result)])))
        print(f"pictures: {place / 'grid.png'}\nfigures:  {place / 'metrics.json'}")
    return result


@contextmanager
def _interruptible() -> Iterator[None]:
    """Gives Ctrl-C back: Lightning makes an exit of it, after it has switched Ctrl-C off."""
    try:
        yield
    except SystemExit:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        raise KeyboardInterrupt from None


def _checked(data: LightningDataModule, config: Config) -> LightningDataModule:
    """Looks at the folders of both splits: what is missing is said before weights are loaded."""
    images = {split: len(data.dataset(split)) for split in ("train", "val", data.held_out)}
    ranks = config.devices * config.nodes
    for key, asked, split in (
        ("validation", config.validation, "val"),
        ("measure.images", config.measure.images, data.held_out),
    ):
        if (count := min(asked, images[split])) < ranks:
            raise BadConfig(
                f"{ranks} processes need {ranks} images of the {split} split or more, and there are {count}; raise "
                f"{key}, or use fewer devices."
            )
    if config.metrics and "shuffled" in config.measure.anchors and count < 2:
        raise BadConfig("measure.images=1 leaves no other image whose layout could be shown; raise it to 2 or more.")
    return data


def _facts(data: LightningDataModule, module: LayoutModule) -> dict[str, str]:
    return {"data": data.fingerprint(), "frozen": module.diffusion.pipeline.source}
