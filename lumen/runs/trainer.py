"""Lightning's Trainer as a run needs it: one epoch, own order of images, own checkpoints, own figures."""

import logging
import os
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningDataModule, Trainer
from lightning.pytorch.loggers import Logger
from lightning.pytorch.plugins.environments import SLURMEnvironment, TorchElasticEnvironment

from lumen.config import identity as names
from lumen.config.experiment import dump
from lumen.config.schema import Config
from lumen.core.errors import BadConfig
from lumen.core.interfaces import Batch
from lumen.core.signals import Ear
from lumen.runs import directory as folder
from lumen.runs.build import accelerator, precision
from lumen.training import checkpoint_io as checkpoints
from lumen.training import loggers as tracking
from lumen.training.callbacks import Average, Guard, Meter, Pictures, Progress
from lumen.training.checkpoint_callbacks import Checkpoints, Preemption
from lumen.training.precompute import Keeping
from lumen.training.tasks.layout_to_image import LayoutModule


def make_trainer(
    config: Config,
    data: LightningDataModule,
    module: LayoutModule,
    place: Path,
    start: Path | None,
    ear: Ear,
    job: str = "train",
) -> Trainer:
    """Lightning's Trainer for this config: one epoch, which is the whole run."""
    _quiet()
    _as_started(config)
    step = checkpoints.step_of(start) if start else 0
    identity = _identity(config, place, job)
    tracker = tracking.tracker(config.wandb, place, dump(config), identity, step) if first() else None
    journal = tracking.Journal(place / "metrics.jsonl", step if first() else None)
    saver = Checkpoints(
        place / "checkpoints",
        config.every.checkpoint,
        config.keep,
        config.best,
        {"config": names.digest(config)},
        validated=lambda step: journal.has(step - 1, "val/loss"),
        elastic=config.elastic,
    )
    callbacks = [
        Progress(refresh_rate=config.every.log),
        Keeping(config),
        Guard(frozen(module), config.every.log),
        Meter(config.every.log),
        # In this order when validation ends: draw with the averaged weights, then put the live ones back; and after a
        # step: average, save, leave.
        Pictures(place, fixed(data), asdict(config.sampling), config.seed, tracker and tracker.show),
        *([Average(config.ema)] if config.ema else []),
        saver,
        Preemption(ear, saver),
    ]
    try:
        trainer = _trainer(config, place, [journal, *([tracker] if tracker else [])], callbacks)
    except (MisconfigurationException, ValueError) as error:
        said = " ".join(str(error).split())
        raise BadConfig(
            f"this machine cannot be used as asked: {said} Change devices, accelerator or strategy."
        ) from None
    # Lightning's handler would speak to the other ranks from within, while they wait for one another's gradients.
    trainer._signal_connector.register_signal_handlers = lambda: None
    # Nor would it have anything to tell them, yet at every step each would wait for its GPU to hear so.
    trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None
    ear.kill = getattr(trainer.strategy.launcher, "kill", None)
    return trainer


def _trainer(config: Config, place: Path, loggers: list[Logger], callbacks: list[Callback]) -> Trainer:
    # Requeueing by Lightning would save from inside a signal handler, in the middle of a step.
    slurm = [SLURMEnvironment(auto_requeue=False)] if SLURMEnvironment.detect() else []
    if slurm and config.devices * config.nodes > 1:  # Lightning would, once half a run's folder is made
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
        use_distributed_sampler=False,  # the data module's own order knows the ranks
        default_root_dir=place,
        logger=loggers,
        plugins=[checkpoints.WholeFiles(), *slurm],
        enable_checkpointing=False,
        enable_model_summary=False,
        callbacks=callbacks,
    )


def _strategy(config: Config) -> str:
    """Lightning's name for how ranks work together.

    After its first step DDP lays out gradients anew, in a continued run as well. Of two ranks that changes nothing; of
    more the sums come out in another order and differ in the last bit. Looking for unused parameters keeps one layout.
    """
    if config.exact and config.devices * config.nodes > 2 and config.strategy in ("auto", "ddp"):
        return "ddp_find_unused_parameters_true"
    return config.strategy


def first() -> bool:
    """Whether this process is the one that the others of the run follow, known before they are connected."""
    return all(int(os.environ.get(name, 0)) == 0 for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID", "NODE_RANK"))


def _as_started(config: Config) -> None:
    """
    Raises:
        BadConfig: torchrun has started another number of processes than the config says; without ranks that it knows
            of, each would be a run of its own in the same folder. Of SLURM's, Lightning says so.
    """
    if not TorchElasticEnvironment.detect():
        return
    each, all_of_them = int(os.environ["LOCAL_WORLD_SIZE"]), int(os.environ["WORLD_SIZE"])
    if (each, all_of_them) != (config.devices, config.devices * config.nodes):
        raise BadConfig(
            f"torchrun has started {each} processes on this node and {all_of_them} in all, which is not "
            f"devices={config.devices} nodes={config.nodes}; write devices={each} nodes={all_of_them // each}."
        )


def at_step(trainer: Trainer, step: int) -> None:
    """Tells the trainer where a run stands that it did not train itself, so that figures are logged there."""
    trainer.fit_loop.epoch_loop._batches_that_stepped = step


def frozen(module: LayoutModule) -> dict[str, torch.nn.Module]:
    """The networks that must not move."""
    return module.diffusion.networks | module.conditioning.networks


def fixed(data: LightningDataModule, count: int = 4) -> Batch:
    """The validation images that every picture of a run shows, the same at every step and in every run."""
    from lumen.data.loader import collate

    view = data.dataset("val")
    return collate([view[i * len(view) // count] for i in range(min(count, len(view)))])


def _identity(config: Config, place: Path, job: str) -> dict[str, Any]:
    """How W&B knows the run: the same words for the same folder, whenever the command is repeated."""
    return {
        "project": config.project,
        "id": folder.identity(place),
        "name": f"{config.experiment} {names.name_of(config)} seed{config.seed}",
        "group": config.experiment,
        "job_type": job,
        "tags": [f"{slot}:{getattr(config, slot)['name']}" for slot in ("backbone", "data", "conditioning")],
    }


def _quiet() -> None:
    """Silences what Lightning says of choices made here on purpose; its warnings of mistakes stay."""
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.WARNING)
    for message in ("does not have many workers", "in eval mode", "LeafSpec", "smaller than the logging interval"):
        warnings.filterwarnings("ignore", message=f".*{message}")
