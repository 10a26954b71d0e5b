"""Construction of a run's objects from its config: the only place where settings meet classes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from lumen.config.schema import SLOTS, Config
from lumen.core.errors import BadConfig
from lumen.core.interfaces import Batch, Conditioning, Generator, Metric, Optimization, Task
from lumen.core.registry import Registry, backbones, conditionings, generators, metrics, tasks
from lumen.diffusion.loading import load
from lumen.runs.data import build_data
from lumen.training.cache_options import CacheOptions

__all__ = ["build_conditioning", "build_data", "build_generator", "build_metrics", "build_task"]


def build_conditioning(config: Config, data: LightningDataModule) -> Conditioning:
    """Return the conditioning, with a backbone only if it uses one, and with what it needs of the data set."""
    supplies = {"backbone": lambda: backbones.build(**config.backbone), "classes": lambda: data.source.classes}
    return _build(conditionings, config.conditioning, supplies)


def build_generator(config: Config, conditioning: Conditioning) -> Generator:
    """Return the generator for the layouts of a conditioning.

    Raises:
        BadConfig: The image size is no multiple of a latent cell.
    """
    options = config.diffusion
    supplies = {
        "base": lambda: load(options.weights, options.size, options.revision, config.diffusion.vae),
        "channels": lambda: conditioning.channels,
        "hint": lambda: conditioning.hint if options.hint == "auto" else options.hint,
        "prompt_dropout": lambda: config.prompt_dropout,
        "snr_gamma": lambda: options.snr_gamma,
        "seed": lambda: config.seed,
        "checkpointing": lambda: options.checkpointing,
        "cache_text": lambda: config.cache_text,
    }
    generator = _build(generators, config.generator, supplies)
    if config.size % (cell := generator.downscale):
        raise BadConfig(
            f"size={config.size} does not divide into the autoencoder's {cell} px cells; "
            f"choose {config.size // cell * cell} or {(config.size // cell + 1) * cell}."
        )
    return generator


def build_task(config: Config, data: LightningDataModule) -> Task:
    """Return the task with the components that its factory asks for.

    Raises:
        BadConfig: A component does not fit the config.
    """
    needs = tasks.needs(config.task["name"])
    components: dict[str, Any] = {}
    if "conditioning" in needs or "generator" in needs:
        components["conditioning"] = build_conditioning(config, data)
    if "generator" in needs:
        components["generator"] = build_generator(config, components["conditioning"])
    supplies = {name: lambda component=component: component for name, component in components.items()} | {
        "backbone": lambda: backbones.build(**config.backbone),
        "classes": lambda: data.source.classes,
        "optimization": lambda: Optimization(config.lr, config.warmup, config.weight_decay),
        "seed": lambda: config.seed,
    }
    task = _build(tasks, config.task, supplies)
    if accelerator(config) == "gpu":  # on a CPU measured figures keep their bits
        task.to_channels_last()
    if config.compile:
        task.compile_networks()
    return task


def build_metrics(config: Config, data: LightningDataModule, task: Task) -> dict[str, Metric]:
    """Return the metrics by name; one that needs more samples than there are is replaced by its fallback.

    Raises:
        BadConfig: A metric does not fit the task, or needs more samples per image.
    """
    images, samples = len(data.source.eval_records()), config.measure.samples
    built = {name: _metric(name, arguments, data) for name, arguments in config.metrics.items()}
    for name, metric in list(built.items()):
        if metric.scores != task.predicts:
            known = ", ".join(n for n in metrics.names() if metrics.literal(n, "scores", "images") == task.predicts)
            raise BadConfig(
                f"metrics: {name} scores {metric.scores}, and the task {config.task['name']} predicts "
                f"{task.predicts}; choose from: {known or 'none'}."
            )
        if metric.samples_per_image > samples:
            raise BadConfig(
                f"{name} compares {metric.samples_per_image} samples of an image, and measure.samples is {samples}; "
                f"raise it, or leave {name} out of metrics."
            )
        if metric.min_samples > images * samples:
            fallback = metric.fallback
            arguments = {k: v for k, v in config.metrics[name].items() if k in metrics.arguments(fallback)}
            rank_zero_warn(
                f"{name} needs {metric.min_samples} samples or more, and there are {images * samples} ({images} "
                f"images, {samples} of each); {fallback} is reported instead. Raise measure.images to have {name}."
            )
            built.setdefault(fallback, _metric(fallback, arguments, data))
            del built[name]
    return built


def build_cache_options(config: Config) -> CacheOptions:
    """Return the cache settings."""
    return CacheOptions(
        mode=config.cache,
        root=Path(config.runs) / "cache",
        limit_bytes=config.cache_gb * 1e9,
        batch_size=config.batch,
        num_images=config.steps * config.accumulate * config.batch,
        seed=config.seed,
        arguments={slot: _changed_arguments(registry, getattr(config, slot)) for slot, registry in SLOTS.items()},
    )


def accelerator(config: Config) -> str:
    """Return "gpu" or "cpu". "auto" takes an NVIDIA or AMD GPU; Apple's has no float64, which feature moments need."""
    if config.accelerator != "auto":
        return config.accelerator
    return "gpu" if torch.cuda.is_available() else "cpu"


def device(config: Config) -> str:
    """Return torch's name of the device, for use without a trainer."""
    return {"gpu": "cuda", "cpu": "cpu"}[accelerator(config)]


def precision(config: Config) -> str:
    """Return Lightning's name of the precision; "auto" is bf16 only on GPUs that compute in it."""
    if config.precision != "auto":
        return config.precision
    return "bf16-mixed" if accelerator(config) == "gpu" and torch.cuda.is_bf16_supported() else "32-true"


def _build(registry: Registry, component: dict[str, Any], supplies: dict[str, Callable[[], Any]]) -> Any:
    """Build a component of the config with those supplies that its factory asks for by keyword-only parameters."""
    needs = registry.needs(component["name"])
    return registry.build(**component, **{name: supplies[name]() for name in supplies if name in needs})


def _changed_arguments(registry: Registry, component: dict[str, Any]) -> dict[str, Any]:
    """Return name and arguments of a component, without arguments at their default."""
    defaults = {name: argument.default for name, argument in registry.arguments(component["name"]).items()}
    return {k: v for k, v in component.items() if k == "name" or v != defaults.get(k)}


def _metric(name: str, arguments: dict[str, Any], data: LightningDataModule) -> Metric:
    supplies = {"classes": lambda: data.source.classes, "questions": lambda: _questions(data)}
    return _build(metrics, {"name": name, **arguments}, supplies)


def _questions(data: LightningDataModule) -> Callable[[Batch], list] | None:
    """Return the data set's questions; None if it has none about the captions of the evaluated images."""
    source = data.source
    questioned, images = source.num_questioned(), len(source.eval_records())
    if 0 < questioned < images:
        rank_zero_warn(
            f"there are questions about {questioned} of {images} evaluated images; `lumen questions` writes more."
        )
    return source.questions if questioned else None
