"""Lightning's Trainer for a run: one epoch, with LUMEN's own data order, checkpoints and loggers."""

import logging
import os
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningDataModule, Trainer
from lightning.pytorch.loggers import Logger
from lightning.pytorch.plugins.environments import SLURMEnvironment, TorchElasticEnvironment

from lumen.config.experiment import dump
from lumen.config.identity import flatten, run_name
from lumen.config.schema import Config
from lumen.core.errors import BadConfig
from lumen.core.interfaces import Task
from lumen.core.lifetime import announce_parent_to_ranks
from lumen.core.signals import SignalHandler
from lumen.runs.build import accelerator, build_cache_options, precision
from lumen.runs.directory import load_run_config, run_digest, run_id
from lumen.training import checkpoint_io
from lumen.training.callbacks import EMA, DivergenceGuard, ProgressBar, SampleGrid, ThroughputMonitor
from lumen.training.checkpoint_callbacks import CheckpointCallback, PreemptionCallback
from lumen.training.lightning_internals import disable_signal_handling, kill_function
from lumen.training.loggers import JSONLLogger, build_wandb_logger
from lumen.training.precompute import PrecomputeCallback


def build_trainer(
    config: Config,
    data: LightningDataModule,
    task: Task,
    directory: Path,
    start: Path | None,
    handler: SignalHandler,
    job: str = "train",
) -> Trainer:
    """Return Lightning's Trainer: one epoch, which is the whole run.

    Args:
        directory: Run directory.
        start: Checkpoint that the run resumes from, if any.
        handler: Signals that this process receives.
        job: W&B's job type.

    Raises:
        BadConfig: This machine does not have the devices that the config names.
    """
    _silence_lightning()
    _verify_torchrun(config)
    step = checkpoint_io.step_of(start) if start else 0
    identity = _wandb_identity(config, directory, job)
    wandb = build_wandb_logger(config.wandb, directory, dump(config), identity, step) if is_rank_zero() else None
    interval = _log_interval(config, directory) if job == "train" else None
    history = JSONLLogger(directory / "metrics.jsonl", step if is_rank_zero() else None, interval)
    checkpoints = CheckpointCallback(
        directory / "checkpoints",
        config.every.checkpoint,
        config.keep,
        config.best,
        {"config": run_digest(directory, config)},
        is_validated=lambda step: history.has(step - 1, "val/loss"),
        elastic=config.elastic,
    )
    grid_batch = data.grid_batch()
    callbacks = [
        ProgressBar(refresh_rate=config.every.log),
        PrecomputeCallback(build_cache_options(config), directory / "cache.json"),
        DivergenceGuard(task.frozen_networks, config.every.log),
        ThroughputMonitor(config.every.log),
        # The order matters when validation ends: preview with the averaged weights, then restore the raw ones; and
        # after a step: average, save, stop.
        SampleGrid(directory, grid_batch, asdict(config.sampling), config.seed, wandb and wandb.log_grid),
        *([EMA(config.ema)] if config.ema else []),
        checkpoints,
        PreemptionCallback(handler, checkpoints),
    ]
    try:
        trainer = _lightning_trainer(config, directory, [history, *([wandb] if wandb else [])], callbacks)
    except (MisconfigurationException, ValueError) as error:
        reason = " ".join(str(error).split())
        raise BadConfig(
            f"this machine cannot be used as the config asks: {reason} Change devices, accelerator or strategy."
        ) from None
    disable_signal_handling(trainer)
    handler.kill_children = kill_function(trainer)
    if handler.kill_children is not None:
        announce_parent_to_ranks()
    return trainer


def _lightning_trainer(config: Config, directory: Path, loggers: list[Logger], callbacks: list[Callback]) -> Trainer:
    # Lightning's requeueing would save from within a signal handler, in the middle of a step.
    slurm = [SLURMEnvironment(auto_requeue=False)] if SLURMEnvironment.detect() else []
    if slurm and config.devices * config.nodes > 1:  # Lightning would do so once half a run's directory is made
        slurm[0].validate_settings(config.devices, config.nodes)
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
        plugins=[checkpoint_io.AtomicCheckpointIO(loggers[0].flush), *slurm],
        enable_checkpointing=False,
        enable_model_summary=False,
        callbacks=callbacks,
    )


def _log_interval(config: Config, directory: Path) -> int:
    """Return the most steps between two lines of the history; the first start of a run may have logged less often."""
    return max(config.every.log, flatten(load_run_config(directory)).get("every.log", 1)) if is_rank_zero() else 1


def _strategy(config: Config) -> str:
    """Return Lightning's name of the strategy.

    DDP lays out gradients anew after its first step, in a resumed run as well. For two ranks that changes nothing; for
    more the order of the sums changes, and with it the last bit. Searching for unused parameters keeps one layout.
    """
    if config.exact and config.devices * config.nodes > 2 and config.strategy in ("auto", "ddp"):
        return "ddp_find_unused_parameters_true"
    return config.strategy


def is_rank_zero() -> bool:
    """Return whether this is the first process of the run; known before the processes are connected."""
    return all(int(os.environ.get(name, 0)) == 0 for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID", "NODE_RANK"))


def _verify_torchrun(config: Config) -> None:
    """Compare the processes that torchrun has started with the config.

    Raises:
        BadConfig: The numbers differ. Each process would be a run of its own in the same directory. Of SLURM's
            processes Lightning verifies the number.
    """
    if not TorchElasticEnvironment.detect():
        return
    local, total = int(os.environ["LOCAL_WORLD_SIZE"]), int(os.environ["WORLD_SIZE"])
    if (local, total) != (config.devices, config.devices * config.nodes):
        raise BadConfig(
            f"torchrun has started {local} processes on this node and {total} in all, which is not "
            f"devices={config.devices} nodes={config.nodes}; write devices={local} nodes={total // local}."
        )


def _wandb_identity(config: Config, directory: Path, job: str) -> dict[str, Any]:
    """Return W&B's names of the run, the same for the same directory whenever the command is repeated."""
    return {
        "project": config.project,
        "id": run_id(directory),
        "name": f"{config.experiment} {run_name(dump(config))} seed{config.seed}",
        "group": config.experiment,
        "job_type": job,
        "tags": [f"{slot}:{getattr(config, slot)['name']}" for slot in ("backbone", "data", "conditioning")],
    }


def _silence_lightning() -> None:
    """Silence Lightning's remarks on choices that are made here on purpose; its warnings of mistakes stay."""
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.WARNING)
    for message in ("does not have many workers", "in eval mode", "LeafSpec", "smaller than the logging interval"):
        warnings.filterwarnings("ignore", message=f".*{message}")
