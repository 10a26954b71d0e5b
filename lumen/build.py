"""From a config to parts: the only place where settings meet classes."""

import torch
from lightning.pytorch import LightningDataModule

from lumen.contracts import Conditioning, Metric
from lumen.diffusion import ControlledDiffusion
from lumen.errors import BadConfig
from lumen.module import LayoutModule
from lumen.pipeline import load
from lumen.registry import backbones, conditionings, datamodules, metrics
from lumen.schema import Config


def build_data(config: Config) -> LightningDataModule:
    """The data set, its folders looked at: what is missing is said before any weights are loaded."""
    from datamodules._base import Loading

    loading = Loading(
        size=config.size,
        batch=config.batch,
        batches=config.steps * config.accumulate,
        workers=config.workers,
        seed=config.seed,
        validation=config.validation,
        measured=config.measure.images,
    )
    return datamodules.build(**config.data, loading=loading)


def build_conditioning(config: Config) -> Conditioning:
    """The conditioning, with a backbone only where it looks through one."""
    needs = conditionings.needs(config.conditioning["name"])
    supplies = {"backbone": lambda: backbones.build(**config.backbone)}
    return conditionings.build(**config.conditioning, **{name: supplies[name]() for name in needs & supplies.keys()})


def build_metrics(config: Config, data: LightningDataModule) -> dict[str, Metric]:
    """The judges, by name, each with what it needs of the data set."""
    supplies = {"classes": data.classes, "questions": data.questions}
    judges = {
        name: metrics.build(name, **arguments, **{part: supplies[part] for part in metrics.needs(name)})
        for name, arguments in config.metrics.items()
    }
    for name, judge in judges.items():
        if judge.samples > config.measure.samples:
            raise BadConfig(
                f"{name} compares {judge.samples} samples of an image, and measure.samples is "
                f"{config.measure.samples}; raise it, or leave {name} out of metrics."
            )
    return judges


def build_module(config: Config) -> LayoutModule:
    """The networks: a conditioning, a frozen diffusion model, the ControlNet between them."""
    how = config.diffusion
    pipeline = load(how.weights, how.size, how.revision, how.vae)
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
    return LayoutModule(diffusion, conditioning, config.lr, config.warmup, config.weight_decay, config.seed)


def accelerator(config: Config) -> str:
    """Where to compute; by itself an NVIDIA or AMD GPU or the CPU: Apple's has no float64, which the moments need."""
    if config.accelerator != "auto":
        return config.accelerator
    return "gpu" if torch.cuda.is_available() else "cpu"


def precision(config: Config) -> str:
    """Lightning's name for the precision: bf16 by itself only where the GPU computes in it."""
    if config.precision != "auto":
        return config.precision
    return "bf16-mixed" if accelerator(config) == "gpu" and torch.cuda.is_bf16_supported() else "32-true"
