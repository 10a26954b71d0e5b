"""From a config to parts: the only place where settings meet classes."""

from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from lumen.config.schema import Config
from lumen.core.errors import BadConfig
from lumen.core.interfaces import Batch, Conditioning, Metric
from lumen.core.registry import backbones, conditionings, datamodules, metrics
from lumen.diffusion.stable_diffusion import load
from lumen.generators.controlnet import ControlledDiffusion
from lumen.training.tasks.layout_to_image import LayoutModule


def build_data(config: Config) -> LightningDataModule:
    """The data set, its folders looked at: what is missing is said before any weights are loaded."""
    from lumen.data.datamodule import Loading

    loading = Loading(
        size=config.size,
        batch=config.batch,
        batches=config.steps * config.accumulate,
        workers=config.workers,
        seed=config.seed,
        validation=config.validation,
        measured=config.measure.images,
        questions=config.measure.questions,
        views=config.views,
    )
    return datamodules.build(**config.data, loading=loading)


def build_conditioning(config: Config, data: LightningDataModule) -> Conditioning:
    """The conditioning, with a backbone only where it looks through one, and with what it needs of the data set."""
    needs = conditionings.needs(config.conditioning["name"])
    supplies = {"backbone": lambda: backbones.build(**config.backbone), "classes": lambda: data.classes}
    return conditionings.build(**config.conditioning, **{name: supplies[name]() for name in needs & supplies.keys()})


def build_metrics(config: Config, data: LightningDataModule) -> dict[str, Metric]:
    """The judges, by name, each with what it needs of the data set; of too few samples another in its place."""
    images, each = min(config.measure.images, len(data.dataset(data.held_out))), config.measure.samples
    judges = {name: _metric(name, arguments, data) for name, arguments in config.metrics.items()}
    for name, judge in list(judges.items()):
        if judge.samples_per_image > each:
            raise BadConfig(
                f"{name} compares {judge.samples_per_image} samples of an image, and measure.samples is {each}; raise it, or "
                f"leave {name} out of metrics."
            )
        if judge.min_samples > images * each:
            arguments = {
                key: value for key, value in config.metrics[name].items() if key in metrics.arguments(judge.fallback)
            }
            rank_zero_warn(
                f"{name} needs {judge.min_samples} samples or more, and there are {images * each} ({images} images, "
                f"{each} of each); {judge.fallback} is measured in its place. Raise measure.images to have {name}."
            )
            judges.setdefault(judge.fallback, _metric(judge.fallback, arguments, data))
            del judges[name]
    return judges


def _metric(name: str, arguments: dict[str, Any], data: LightningDataModule) -> Metric:
    supplies = {"classes": lambda: data.classes, "questions": lambda: _questions(data)}
    return metrics.build(name, **arguments, **{part: supplies[part]() for part in metrics.needs(name)})


def _questions(data: LightningDataModule) -> Callable[[Batch], list] | None:
    """What the data set asks about captions; None where it asks nothing about those of the measured images."""
    asked, images = data.asks(), len(data.measured())
    if 0 < asked < images:
        rank_zero_warn(f"there are questions about {asked} of {images} measured images; `lumen questions` writes more.")
    return data.questions if asked else None


def build_module(config: Config, data: LightningDataModule) -> LayoutModule:
    """The networks: a conditioning, a frozen diffusion model, the ControlNet between them."""
    how = config.diffusion
    pipeline = load(how.weights, how.size, how.revision, how.vae)
    if config.size % pipeline.downscale:
        step = pipeline.downscale
        raise BadConfig(
            f"size={config.size} does not divide into the autoencoder's {step} px cells; "
            f"choose {config.size // step * step} or {(config.size // step + 1) * step}."
        )
    conditioning = build_conditioning(config, data)
    hint = conditioning.hint if how.hint == "auto" else how.hint
    diffusion = ControlledDiffusion(
        pipeline, conditioning.channels, hint, config.prompt_dropout, how.snr_gamma, config.seed, how.checkpointing,
        config.cache_text,
    )  # fmt: skip
    if accelerator(config) == "gpu":
        # As its convolutions want them: a fifth faster by NVIDIA's figures. On a CPU measured figures keep their bits.
        diffusion.to(memory_format=torch.channels_last)
    if config.compile:
        # The method, not the networks: their names stay, and a backbone reads the same U-Net through hooks, which a
        # compiled network would not see.
        diffusion.denoise = torch.compile(diffusion.denoise, dynamic=False)
    return LayoutModule(diffusion, conditioning, config.lr, config.warmup, config.weight_decay, config.seed)


def accelerator(config: Config) -> str:
    """Where to compute; by itself an NVIDIA or AMD GPU or the CPU: Apple's has no float64, which the moments need."""
    if config.accelerator != "auto":
        return config.accelerator
    return "gpu" if torch.cuda.is_available() else "cpu"


def device(config: Config) -> str:
    """torch's name for it, where no trainer moves things."""
    return {"gpu": "cuda", "cpu": "cpu"}[accelerator(config)]


def precision(config: Config) -> str:
    """Lightning's name for the precision: bf16 by itself only where the GPU computes in it."""
    if config.precision != "auto":
        return config.precision
    return "bf16-mixed" if accelerator(config) == "gpu" and torch.cuda.is_bf16_supported() else "32-true"
