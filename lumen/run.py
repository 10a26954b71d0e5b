"""One run: its parts built from a config, trained or continued, measured, and recorded in its folder."""

import logging
import os
import signal
import warnings
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.utilities.warnings import PossibleUserWarning
from lightning.pytorch import LightningDataModule, Trainer

from lumen import checkpoints, folder, tracking
from lumen.callbacks import Average, Guard, Meter, Pictures, Progress, learning
from lumen.config import Config, dump
from lumen.contracts import Batch, Conditioning
from lumen.diffusion import ControlledDiffusion
from lumen.errors import BadCheckpoint, BadConfig, Mistake
from lumen.files import write_json
from lumen.module import LayoutModule
from lumen.pipeline import load as load_pipeline
from lumen.registry import backbones, conditionings, datamodules


@dataclass
class Parts:
    """What a config describes, built."""

    data: LightningDataModule
    module: LayoutModule


def build(config: Config) -> Parts:
    """The only place where the config meets the classes."""
    data = build_data(config)
    for split in ("train", "val"):
        data.dataset(split)  # a folder that is missing is said before weights are loaded
    how = config.diffusion
    pipeline = load_pipeline(how.weights, how.size, how.revision, how.vae)
    if config.size % pipeline.downscale:
        step = pipeline.downscale
        raise BadConfig(
            f"size={config.size} does not divide into the autoencoder's {step} px cells; "
            f"choose {config.size // step * step} or {(config.size // step + 1) * step}."
        )
    conditioning = build_conditioning(config)
    diffusion = ControlledDiffusion(
        pipeline, conditioning.channels, how.hint, config.prompt_dropout, how.snr_gamma, config.seed, how.checkpointing
    )
    module = LayoutModule(diffusion, conditioning, config.lr, config.warmup, config.weight_decay, config.seed)
    return Parts(data, module)


def build_data(config: Config) -> LightningDataModule:
    from datamodules._base import Loading

    loading = Loading(
        size=config.size,
        batch=config.batch,
        batches=config.steps * config.accumulate,
        workers=config.workers,
        seed=config.seed,
        validation=config.validation,
    )
    return datamodules.build(**config.data, loading=loading)


def build_conditioning(config: Config) -> Conditioning:
    """The conditioning, with a backbone only where it looks through one."""
    needs = conditionings.needs(config.conditioning["name"])
    supplies = {"backbone": lambda: backbones.build(**config.backbone)}
    return conditionings.build(**config.conditioning, **{name: supplies[name]() for name in needs & supplies.keys()})


def train(config: Config) -> dict[str, Any]:
    """Trains, or goes on with, the run that the config names, then measures it.

    Returns:
        the content of metrics.json; where it is there already, nothing is done.
    """
    place = folder.place_of(config)
    if (place / "metrics.json").exists():
        print(f"{place} is finished; its figures are in metrics.json. Remove the folder to train again.")
        return folder.figures(place)
    # The other ranks of a node are started by rank 0, which holds the folder for all of them.
    with folder.claim(place, config) if _first() else nullcontext(), tracking.closing():
        parts = build(config)
        resume = checkpoints.newest(place / "checkpoints")
        trainer = make_trainer(config, parts, place, checkpoints.step_of(resume) if resume else 0)
        if trainer.is_global_zero:
            _announce(config, parts, place, resume)
        _fit(trainer, parts, resume)
        return _measure(trainer, parts, place, config)


def evaluate(place: Path, config: Config) -> dict[str, Any]:
    """Measures a trained run again under changed settings, into a folder of its own within the run's."""
    newest = checkpoints.newest(place / "checkpoints")
    if newest is None:
        raise BadCheckpoint(f"{place} has no checkpoint yet; repeat its lumen train command first.")
    out = place / "eval" / folder.name_of(config)
    with folder.claim(out, config) if _first() else nullcontext(), tracking.closing():
        parts = build(config)
        trainer = make_trainer(config, parts, out, checkpoints.step_of(newest), "eval")
        restore(parts.module, newest)
        return _measure(trainer, parts, out, config)


def restore(module: LayoutModule, path: Path) -> None:
    """Puts a checkpoint's weights into a module: the averaged ones where the run kept an average."""
    checkpoint = checkpoints.read(path)
    module.on_load_checkpoint(checkpoint)
    module.load_state_dict(checkpoint["state_dict"])
    averaged = checkpoint["callbacks"].get(Average.__name__)
    if averaged:
        with torch.no_grad():
            for weight, average in zip(learning(module), averaged["shadow_params"], strict=True):
                weight.copy_(average)


def make_trainer(config: Config, parts: Parts, place: Path, step: int, job: str = "train") -> Trainer:
    """Lightning's Trainer for this config: one epoch, which is the whole run."""
    _quiet()
    logger = tracking.tracker(config.wandb, place, dump(config), _identity(config, place, job)) if _first() else None
    shown = fixed(parts.data)
    return Trainer(
        accelerator=config.accelerator,
        devices=config.devices,
        num_nodes=config.nodes,
        strategy=config.strategy,
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
        logger=[tracking.Journal(place / "metrics.jsonl", step), *([logger] if logger else [])],
        plugins=[checkpoints.WholeFiles()],
        enable_checkpointing=False,
        enable_model_summary=False,
        callbacks=[
            Progress(refresh_rate=config.every.log),
            Guard(frozen(parts.module), config.every.log),
            Meter(config.every.log),
            # In this order when validation ends: draw with the averaged weights, put the live ones back, save those.
            Pictures(place, shown, asdict(config.sampling), config.seed, logger and logger.show),
            *([Average(config.ema)] if config.ema else []),
            checkpoints.Checkpoints(place / "checkpoints", config.every.checkpoint, config.keep),
        ],
    )


def frozen(module: LayoutModule) -> dict[str, torch.nn.Module]:
    """The networks that must not move."""
    backbone = getattr(module.conditioning, "backbone", None)
    return module.diffusion.networks | ({"backbone": backbone} if backbone is not None else {})


def precision(config: Config) -> str:
    """Lightning's name for the precision: bf16 by itself only where the GPU computes in it."""
    if config.precision != "auto":
        return config.precision
    gpu = config.accelerator != "cpu" and torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    return "bf16-mixed" if gpu else "32-true"


def fixed(data: LightningDataModule, count: int = 4) -> Batch:
    """The validation images that every picture of a run shows, the same at every step and in every run."""
    from datamodules._base import collate

    view = data.dataset("val")
    return collate([view[i * len(view) // count] for i in range(min(count, len(view)))])


def _fit(trainer: Trainer, parts: Parts, resume: Path | None) -> None:
    if resume is not None and checkpoints.step_of(resume) >= trainer.max_steps:
        restore(parts.module, resume)
        return
    try:
        trainer.fit(parts.module, datamodule=parts.data, ckpt_path=resume, weights_only=True)
    except SystemExit:  # what Lightning makes of Ctrl-C, after it has switched Ctrl-C off
        signal.signal(signal.SIGINT, signal.default_int_handler)
        raise KeyboardInterrupt from None
    if trainer.global_step < trainer.max_steps:
        raise Mistake(f"training ended at step {trainer.global_step} of {trainer.max_steps}; repeat the command.")


def _measure(trainer: Trainer, parts: Parts, place: Path, config: Config) -> dict[str, Any]:
    """Validates with all figures, draws the last grid, and writes metrics.json: the mark of a finished run."""
    trainer.validate(parts.module, datamodule=parts.data, verbose=False, weights_only=True)
    figures = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("val/")}
    figures |= parts.module.conditioning.record()
    result = {"steps": config.steps, "sampling": asdict(config.sampling), "precision": trainer.precision, **figures}
    if trainer.is_global_zero:
        basis = getattr(parts.module.conditioning, "basis", None)
        if basis is not None:
            basis().save(place / "basis.safetensors")
        write_json(place / "metrics.json", result)
        print(f"val/loss {result['val/loss']:.4f}\npictures: {place / 'grid.png'}\nfigures:  {place / 'metrics.json'}")
    return result


def _announce(config: Config, parts: Parts, place: Path, resume: Path | None) -> None:
    """Says what begins, and writes down what it is made of."""
    facts = folder.provenance(config, data=parts.data.fingerprint(), frozen=parts.module.diffusion.pipeline.source)
    write_json(place / "provenance.json", facts)
    learns = sum(p.numel() for p in learning(parts.module))
    together = config.batch * config.accumulate * config.devices * config.nodes
    start = f"continues at step {checkpoints.step_of(resume)}" if resume else "starts"
    print(
        f"{place} {start}: {config.conditioning['name']} of {config.backbone['name']}, {learns / 1e6:.1f} M parameters "
        f"learn, {together} images a step, {config.steps} steps, {len(parts.data.dataset('train'))} images.",
        flush=True,
    )


def _identity(config: Config, place: Path, job: str) -> dict[str, Any]:
    """How W&B knows the run: the same words for the same folder, whenever the command is repeated."""
    return {
        "project": config.project,
        "id": folder.identity(place),
        "name": f"{config.experiment} {folder.name_of(config)} seed{config.seed}",
        "group": config.experiment,
        "job_type": job,
        "tags": [f"{slot}:{getattr(config, slot)['name']}" for slot in ("backbone", "data", "conditioning")],
    }


def _first() -> bool:
    """Whether this process is the one that the others of the run follow, known before they are connected."""
    return all(int(os.environ.get(name, 0)) == 0 for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID", "NODE_RANK"))


def _quiet() -> None:
    """Silences what Lightning says of choices made here on purpose; its warnings of mistakes stay."""
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.WARNING)
    for message in (".*does not have many workers.*", ".*in eval mode.*", ".*LeafSpec.*", ".*val_dataloader.*shuffl.*"):
        warnings.filterwarnings("ignore", message=message, category=PossibleUserWarning)
        warnings.filterwarnings("ignore", message=message)
