"""One run: trained or continued, measured, and recorded in its folder."""

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningDataModule, Trainer

from lumen.config import identity
from lumen.config.schema import Config
from lumen.core import locks
from lumen.core.errors import Mistake
from lumen.core.files import write_json
from lumen.core.signals import listening
from lumen.runs import directory as folder
from lumen.runs import provenance
from lumen.runs.build import build_data, build_metrics, build_module
from lumen.runs.evaluate import _checked, _facts, _interruptible, _measure, restore
from lumen.runs.trainer import at_step, first, make_trainer
from lumen.training import checkpoint_io as checkpoints
from lumen.training import loggers as tracking
from lumen.training.callbacks import learning
from lumen.training.tasks.layout_to_image import LayoutModule


def train(config: Config, watchers: Sequence[Callback] = ()) -> dict[str, Any]:
    """Trains, or goes on with, the run that the config names, then measures it.

    Args:
        watchers: callbacks that look on and change nothing.

    Returns:
        the content of metrics.json; where it is there already, nothing is done.

    Raises:
        Stopped: it was told to stop while training, and has saved.
    """
    place = folder.place_of(config)
    if (place / "metrics.json").exists():
        print(f"{place} is finished; its figures are in metrics.json. Remove the folder to train again.")
        return folder.figures(place)
    # The other ranks of a node are started by rank 0, which holds the folder for all of them.
    with (
        listening(config.stop_after) as ear,
        locks.claim(place) if first() else nullcontext(),
        tracking.closing(),
    ):
        data = _checked(build_data(config), config)
        module, judges = build_module(config, data), build_metrics(config, data)
        resume = checkpoints.newest(place / "checkpoints", identity.digest(config))
        if first():
            folder.settle(place, config)
        trainer = make_trainer(config, data, module, place, resume, ear)
        trainer.callbacks[:0] = watchers  # before all others, so that what they saw is kept before a step is saved
        if trainer.is_global_zero:
            _announce(config, data, module, place, resume)
        with _interruptible():
            _fit(trainer, data, module, resume, config.every.validate)
            return _measure(trainer, data, module, judges, config, place)


def _fit(trainer: Trainer, data: LightningDataModule, module: LayoutModule, resume: Path | None, every: int) -> None:
    """Trains to the end; where that has been done, validates, for that may have been cut off."""
    if resume is not None and checkpoints.step_of(resume) >= trainer.max_steps:
        restore(module, resume)
        # Where validation was due with the last step, its figures stand at that step, and once.
        at_step(trainer, trainer.max_steps - (trainer.max_steps % every == 0))
        trainer.validate(module, datamodule=data, verbose=False, weights_only=True)
        at_step(trainer, trainer.max_steps)
        return
    trainer.fit(module, datamodule=data, ckpt_path=resume, weights_only=True)
    if trainer.global_step < trainer.max_steps:
        raise Mistake(f"training ended at step {trainer.global_step} of {trainer.max_steps}; repeat the command.")


def _announce(
    config: Config, data: LightningDataModule, module: LayoutModule, place: Path, resume: Path | None
) -> None:
    """Says what begins, and writes down what it is made of.

    Raises:
        RunBusy: the run was begun on other data.
    """
    facts = _facts(data, module)
    if resume:
        folder.same_data(place, facts["data"])
    write_json(place / "provenance.json", provenance.provenance("train", config.experiment, config, facts))
    learns = sum(p.numel() for p in learning(module))
    together = config.batch * config.accumulate * config.devices * config.nodes
    start = f"continues at step {checkpoints.step_of(resume)}" if resume else "starts"
    source = f" of {config.backbone['name']}" if "backbone" in module.conditioning.networks else ""
    print(
        f"{place} {start}: {config.conditioning['name']}{source}, {learns / 1e6:.1f} M parameters "
        f"learn, {together} images a step, {config.steps} steps, {len(data.dataset('train'))} images.",
        flush=True,
    )
