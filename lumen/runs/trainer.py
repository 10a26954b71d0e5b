"""Lightning's Trainer for a run: one epoch, with LUMEN's own data order, checkpoints and loggers."""

import logging
import os
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningDataModule, Trainer
from lightning.pytorch.loggers import Logger
from lightning.pytorch.plugins.environments import ClusterEnvironment

from lumen.config.components import steering, used_components
from lumen.config.experiment import dump
from lumen.config.identity import flatten
from lumen.config.schema import NON_RESULT_KEYS, SLOTS, Config
from lumen.core.console import console
from lumen.core.errors import BadConfig
from lumen.core.interfaces import Batch, Task, trainable_parameters
from lumen.core.lifetime import announce_parent_to_ranks
from lumen.core.signals import SignalHandler
from lumen.runs.build import accelerator, build_cache_options, precision
from lumen.runs.directory import group_name, load_run_config, run_digest, run_id
from lumen.runs.processes import cluster_environments, is_rank_zero, verify_torchrun
from lumen.training import checkpoint_io
from lumen.training.callbacks import (
    EMA,
    DivergenceGuard,
    OptimizationMonitor,
    SampleGrid,
    ThroughputMonitor,
)
from lumen.training.checkpoint_callbacks import CheckpointCallback, PreemptionCallback
from lumen.training.lightning_internals import disable_gradient_sync, disable_signal_handling, kill_function
from lumen.training.loggers import JSONLLogger, build_lightning_logger
from lumen.training.precompute import PrecomputeCallback
from lumen.training.progress import ProgressDisplay
from lumen.training.validation_photos import ValidationPhotos
from lumen.training.wandb_logger import MAX_NAME_LENGTH, ResilientWandbLogger, build_wandb_logger

TAG_SLOTS = ("backbone", "data", "conditioning")
EVALUATION_OPTIONS = ("measure", "metrics", "sampling", "validation")  # beginnings of keys that no name needs


def build_trainer(
    config: Config,
    data: LightningDataModule,
    task: Task,
    directory: Path,
    start: Path | None,
    handler: SignalHandler,
    job: str = "train",
    photos: Sequence[Batch] = (),
) -> Trainer:
    """Return Lightning's Trainer: one epoch, which is the whole run.

    Args:
        directory: Run directory.
        start: Checkpoint that the run resumes from, if any.
        handler: Signals that this process receives.
        job: W&B's job type.
        photos: Photos with prompts that are sampled when validation ends.

    Raises:
        BadConfig: This machine does not have the devices that the config names.
    """
    _silence_lightning()
    verify_torchrun(config)
    environments = cluster_environments(config)
    loggers = _build_loggers(config, directory, checkpoint_io.step_of(start) if start else 0, job)
    callbacks = _build_callbacks(config, data, task, directory, loggers, handler, photos)
    try:
        trainer = _lightning_trainer(config, directory, loggers, callbacks, environments)
    except (MisconfigurationException, ValueError) as error:
        reason = " ".join(str(error).split())
        raise BadConfig(
            f"this machine cannot be used as the config asks: {reason} Change devices, accelerator or strategy."
        ) from None
    disable_signal_handling(trainer)
    if not trainable_parameters(task):
        disable_gradient_sync(trainer)
    handler.kill_children = kill_function(trainer)
    if handler.kill_children is not None:
        announce_parent_to_ranks()
    return trainer


def _build_loggers(config: Config, directory: Path, step: int, job: str) -> list[Logger]:
    """Return the logger to metrics.jsonl, and after it those that the config names, which the first rank has alone."""
    is_first = is_rank_zero(config)
    interval = _log_interval(config, directory) if job == "train" and is_first else None
    history = JSONLLogger(directory / "metrics.jsonl", step if is_first else None, interval)
    return [history, *(_dashboards(config, directory, step, job) if is_first else [])]


def _build_callbacks(
    config: Config,
    data: LightningDataModule,
    task: Task,
    directory: Path,
    loggers: list[Logger],
    handler: SignalHandler,
    photos: Sequence[Batch],
) -> list[Callback]:
    """Return the callbacks of a run.

    Their order matters when validation ends: preview with the averaged weights, then restore the raw ones; and after a
    step: average, save, stop.
    """
    wandb = next((logger for logger in loggers if isinstance(logger, ResilientWandbLogger)), None)
    sampling, throughput = asdict(config.sampling), ThroughputMonitor(config.every.log)
    checkpoints = _checkpoint_callback(config, directory, loggers[0])
    return [
        PrecomputeCallback(build_cache_options(config), directory / "cache.json"),
        DivergenceGuard(task.frozen_networks, config.every.log),
        throughput,
        ProgressDisplay(config.every.log, throughput, ["test", *config.measure.anchors]),
        OptimizationMonitor(config.every.log),
        SampleGrid(directory, data.grid_batch(), sampling, config.seed, wandb and wandb.log_preview),
        *([ValidationPhotos(directory, photos, sampling, config.seed)] if photos else []),
        *([EMA(config.ema)] if config.ema else []),
        checkpoints,
        PreemptionCallback(handler, checkpoints),
    ]


def _checkpoint_callback(config: Config, directory: Path, history: JSONLLogger) -> CheckpointCallback:
    return CheckpointCallback(
        directory / "checkpoints",
        config.every.checkpoint,
        config.keep,
        config.best,
        {"config": run_digest(directory, config)},
        is_validated=lambda step: history.has(step - 1, "val/loss"),
        elastic=config.elastic,
    )


def _lightning_trainer(
    config: Config,
    directory: Path,
    loggers: list[Logger],
    callbacks: list[Callback],
    environments: list[ClusterEnvironment],
) -> Trainer:
    return Trainer(
        accelerator=accelerator(config),
        devices=config.devices,
        num_nodes=config.nodes,
        strategy=_strategy(config),
        precision=precision(config),
        max_steps=config.steps,
        max_epochs=-1,
        accumulate_grad_batches=config.accumulate,
        gradient_clip_val=config.clip,
        val_check_interval=config.every.validate * config.accumulate,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        log_every_n_steps=config.every.log,
        use_distributed_sampler=False,  # the sampler of the data module knows the ranks
        default_root_dir=directory,
        logger=loggers,
        plugins=[checkpoint_io.AtomicCheckpointIO(loggers[0].flush), *environments],
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
        callbacks=callbacks,
    )


def _log_interval(config: Config, directory: Path) -> int:
    """Return the most steps between two lines of the history; the first start of a run may have logged less often."""
    return max(config.every.log, flatten(load_run_config(directory)).get("every.log", 1))


def _strategy(config: Config) -> str:
    """Return Lightning's name of the strategy.

    DDP lays out gradients anew after its first step, in a resumed run as well. For two ranks that changes nothing; for
    more the order of the sums changes, and with it the last bit. Searching for unused parameters keeps one layout.
    """
    if config.exact and config.devices * config.nodes > 2 and config.strategy in ("auto", "ddp"):
        return "ddp_find_unused_parameters_true"
    return config.strategy


def _dashboards(config: Config, directory: Path, step: int, job: str) -> list[Logger]:
    """Return the loggers that the config names, beside metrics.jsonl."""
    loggers = [build_lightning_logger(name, directory) for name in config.logger if name != "wandb"]
    if "wandb" not in config.logger:
        return loggers
    identity = _wandb_identity(config, directory, job)
    wandb = build_wandb_logger(config.wandb.mode, directory, _wandb_config(config), identity, step)
    return [*loggers, *([wandb] if wandb else [])]


def _wandb_identity(config: Config, directory: Path, job: str) -> dict[str, Any]:
    """Return W&B's names of the run, the same for the same directory whenever the command is repeated.

    Runs that differ in their seed alone form a group, whose mean and deviation W&B shows.
    """
    options = config.wandb
    used = used_components(dump(config))
    return {
        "project": config.project,
        "entity": options.entity,
        "id": run_id(directory),
        "name": _short_name(config),
        "group": options.group or os.environ.get("WANDB_RUN_GROUP") or group_name(directory),
        "job_type": job,
        "tags": [*(f"{slot}:{used[slot]}" for slot in TAG_SLOTS if slot in used), *options.tags],
        "notes": options.notes,
    }


def _short_name(config: Config) -> str:
    """Return the experiment, what steers, the overrides of training, and the seed, in as many letters as W&B takes."""
    names = {*SLOTS, *(f"{slot}.name" for slot in SLOTS)}
    flags = {key: value for key, value in config.flags.items() if key not in names | NON_RESULT_KEYS}
    short = {key: Path(value).name if isinstance(value, str) else value for key, value in flags.items()}  # of a path
    words = [f"{key}={value}" for key, value in short.items() if not key.startswith(EVALUATION_OPTIONS)]
    seed = f" seed{config.seed}"
    return " ".join([config.experiment, steering(dump(config)), *words])[: MAX_NAME_LENGTH - len(seed)] + seed


def _wandb_config(config: Config) -> dict[str, Any]:
    """Return the settings that W&B shows as columns: those of the components in use, and the one that steers."""
    tree = dump(config)
    used = used_components(tree)
    left_out = {"flags", "defaults", *(SLOTS.keys() - used.keys())}
    return {key: value for key, value in tree.items() if key not in left_out} | {"steering": steering(tree)}


def _silence_lightning() -> None:
    """Silence Lightning's remarks on choices that are made here on purpose; its warnings of mistakes stay."""
    if console.is_verbose:
        return
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    messages = ("does not have many workers", "in eval mode", "LeafSpec", "smaller than the logging interval")
    for message in (*messages, "this fit will run with no optimizer"):
        warnings.filterwarnings("ignore", message=f".*{message}")
