"""Training of one run, from its start or its newest checkpoint, followed by its evaluation."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningDataModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from lumen.config.schema import Config
from lumen.core.console import announce
from lumen.core.errors import Mistake, Note
from lumen.core.files import remove_drafts, write_json
from lumen.core.interfaces import Task, trainable_parameters
from lumen.core.signals import handle_signals
from lumen.data.source import DataSource
from lumen.runs import directory as run_dirs
from lumen.runs.build import build_metrics, build_task
from lumen.runs.chain import verify_annotations
from lumen.runs.checkpoints import restore
from lumen.runs.data import build_data
from lumen.runs.evaluate import evaluate_task, facts_of, interruptible, verify_splits
from lumen.runs.photos import load_validation_photos
from lumen.runs.processes import hold_directory, is_rank_zero
from lumen.runs.provenance import describe, provenance
from lumen.runs.trainer import build_trainer
from lumen.training import checkpoint_io
from lumen.training.lightning_internals import set_global_step
from lumen.training.loggers import verify_loggers
from lumen.training.wandb_logger import finish_wandb


def train(config: Config, observers: Sequence[Callback] = ()) -> dict[str, Any]:
    """Train or resume the run that a config names, then evaluate it.

    Args:
        observers: Callbacks that change nothing.

    Returns:
        Content of metrics.json. If it exists already, nothing is done.

    Raises:
        DatasetMissing: The data set does not exist.
        RunBusy: The run was started on other data.
        SignalInterrupt: A signal asked the run to stop while it trained, and a checkpoint was written.
    """
    directory = run_dirs.run_directory(config)
    if (results := run_dirs.load_finished(directory, config)) is not None:
        return results
    verify_loggers(config.logger)
    photos = load_validation_photos(config)  # before anything is built
    with (
        handle_signals(config.stop_after) as handler,
        hold_directory(directory, config),
        finish_wandb(),
    ):
        handler.saved = lambda: "the last checkpoint" * any(directory.glob("checkpoints/step*.ckpt"))
        data = verify_splits(build_data(config), config)
        _verify_annotations(data.source, config.task["name"])
        task = build_task(config, data)
        metrics = build_metrics(config, data, task)
        run_dirs.verify_config(directory, config)  # on all ranks, so that all report the same error
        resume = checkpoint_io.newest(directory / "checkpoints", run_dirs.run_digest(directory, config))
        if is_rank_zero(config):
            remove_drafts(directory)
            run_dirs.write_or_verify_config(directory, config)
        trainer = build_trainer(config, data, task, directory, resume, handler, photos=photos)
        trainer.callbacks[:0] = observers  # first, so that their records are written before a step is saved
        if trainer.is_global_zero:
            _announce(config, data, task, directory, resume)
        with interruptible():
            _fit(trainer, data, task, resume, config.every.validate)
            results = evaluate_task(trainer, data, task, metrics, config, directory)
        if trainer.is_global_zero and task.output_kind == "images":
            run = shlex.quote(str(directory))
            words = '"a red house under a night sky"' if task.is_prompted else "seeds=4"
            announce(f"next: lumen sample {run} photo.jpg {words}")
        return results


def _verify_annotations(source: DataSource, task: str) -> None:
    """Verify that training images have what a task learns from, and say so if some lack it.

    Raises:
        BadConfig: None of them has.
    """
    for kind, annotated in verify_annotations(source, task).items():
        if annotated < (images := len(source.records("train"))):
            rank_zero_warn(f"{annotated} of {images} training images have {kind}.", category=Note)


def _fit(trainer: Trainer, data: LightningDataModule, task: Task, resume: Path | None, every: int) -> None:
    """Train to the end; a run that had reached it validates again, because that may have been interrupted."""
    if resume is not None and checkpoint_io.step_of(resume) >= trainer.max_steps:
        restore(task, resume)
        # If validation was due with the last step, its metrics belong to that step, and are logged once.
        set_global_step(trainer, max(0, trainer.max_steps - (trainer.max_steps % every == 0)))
        trainer.validate(task, datamodule=data, verbose=False, weights_only=True)
        set_global_step(trainer, trainer.max_steps)
        return
    trainer.fit(task, datamodule=data, ckpt_path=resume, weights_only=True)
    if trainer.global_step < trainer.max_steps:
        raise Mistake(f"training ended at step {trainer.global_step} of {trainer.max_steps}; repeat the command.")


def _announce(config: Config, data: LightningDataModule, task: Task, directory: Path, resume: Path | None) -> None:
    """Print what starts, and write its provenance.

    Raises:
        RunBusy: The run was started on other data.
    """
    facts = facts_of(data, task)
    if resume:
        run_dirs.verify_dataset(directory, facts["data"])
    write_json(directory / "provenance.json", provenance("train", config.experiment, config, facts))
    parameters = sum(p.numel() for p in trainable_parameters(task))
    images = config.batch * config.accumulate * config.devices * config.nodes
    start = f"resumes at step {checkpoint_io.step_of(resume)}" if resume else "starts"
    source = data.source
    if source.streaming:
        origin = f"{len(source.stream.training):,} streamed shards"
    else:
        origin = f"{len(source.train_records())} training images"
    announce(
        f"{directory} {start}: {describe(config)}, {_millions(parameters)} trainable parameters, {images} images a "
        f"step, {config.steps} steps, {origin}."
    )


def _millions(count: int) -> str:
    return f"{count / 1e6:.1f} M" if count >= 1e5 else f"{count:,}"
