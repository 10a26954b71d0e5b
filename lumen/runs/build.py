"""Construction of a run's objects from its config: the only place where settings meet classes."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch
from diffusers import ControlNetModel
from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from lumen.config.schema import DEFAULT_TASK, REGISTRIES, SLOTS, Config
from lumen.core.errors import BadConfig, BadPlugin, Note, WeightsMissing
from lumen.core.interfaces import Backbone, Batch, Conditioning, Generator, Metric, Optimization, Task
from lumen.core.random import stable_seed
from lumen.core.registry import Registry, backbones, conditionings, generators, metrics, tasks
from lumen.data.datamodule import DataModule
from lumen.data.domains import DomainGroups, group_domains
from lumen.data.source import DataSource
from lumen.diffusion.loading import load, load_controlnet
from lumen.diffusion.stable_diffusion import StableDiffusion
from lumen.runs.data import build_data
from lumen.runs.labels import require_classes, usable_metrics
from lumen.runs.synthesis import build_synthetic_images
from lumen.training.cache_options import CacheOptions

__all__ = ["build_conditioning", "build_data", "build_generator", "build_metrics", "build_task"]
HALF_PRECISION = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16, "32-true": None}


def build_conditioning(
    config: Config, data: DataModule, build_backbone: Callable[[], Backbone] | None = None
) -> Conditioning:
    """Return the conditioning, with a backbone only if it uses one, and with what it needs of the data set."""
    supplies = {
        "backbone": build_backbone or (lambda: _build(backbones, config.backbone, {})),
        "classes": lambda: require_classes(data.source, f"conditioning={config.conditioning['name']}"),
    }
    return _build(conditionings, config.conditioning, supplies)


def build_generator(config: Config, data: DataModule, build_layouts: Callable[[], Conditioning]) -> Generator:
    """Return the generator.

    Args:
        build_layouts: Function that returns the conditioning whose layouts steer the generator.

    Raises:
        BadConfig: The image size is no multiple of a latent cell, or there are more sampling than training timesteps.
    """
    options = config.diffusion
    supplies = {
        "base": lambda: _load_base(config),
        "controlnet": lambda: _load_controlnet(config.diffusion.controlnet),
        "channels": lambda: build_layouts().channels,
        "classes": lambda: require_classes(data.source, f"generator={config.generator['name']}"),
        "hint": lambda: build_layouts().hint if options.hint == "auto" else options.hint,
        "prompt_dropout": lambda: config.prompt_dropout,
        "snr_gamma": lambda: options.snr_gamma,
        "seed": lambda: config.seed,
        "checkpointing": lambda: options.checkpointing,
        "cache_text": lambda: config.cache_text,
    }
    generator = _build(generators, config.generator, supplies)
    _check_size(config.size, generator.downscale)
    if config.sampling.steps > generator.num_train_timesteps:
        raise BadConfig(
            f"sampling.steps={config.sampling.steps} is more than the {generator.num_train_timesteps} timesteps that "
            "the diffusion model was trained with; choose that many or fewer."
        )
    return generator


def build_task(config: Config, data: DataModule) -> Task:
    """Return the task with the components that its factory asks for.

    Raises:
        BadConfig: A component does not fit the config.
    """
    build_backbone = cache(lambda: _build(backbones, config.backbone, {}))
    build_layouts = cache(lambda: build_conditioning(config, data, build_backbone))
    supplies = {
        "generator": lambda: build_generator(config, data, build_layouts),
        "conditioning": build_layouts,
        "backbone": build_backbone,
        "classes": lambda: require_classes(data.source, f"task={config.task['name']}"),
        "box_classes": lambda: data.source.box_classes,
        "synthetic_images": lambda: build_synthetic_images(config, data, build_task),
        "size": lambda: config.size,
        "optimization": lambda: _optimization(config),
        "seed": lambda: config.seed,
    }
    with torch.random.fork_rng(devices=[]):  # weights without a seed of their own follow the seed of the run
        torch.default_generator.manual_seed(stable_seed(config.seed, "task"))
        task = _build(tasks, config.task, supplies)
    if accelerator(config) == "gpu":  # on a CPU measured figures keep their bits
        task.to_channels_last()
    if config.compile:
        task.compile_networks()
    return task


def _optimization(config: Config) -> Optimization:
    images = config.batch * config.accumulate * config.devices * config.nodes
    return Optimization(config.lr, config.warmup, config.weight_decay, config.steps, images, config.lr_schedule)


def build_metrics(config: Config, data: DataModule, task: Task) -> dict[str, Metric]:
    """Return the metrics by name; one that needs more samples than there are is replaced by its fallback.

    Raises:
        BadConfig: A metric does not fit the task or the data set, or needs more samples per image.
    """
    images, samples = len(data.source.eval_records()), config.measure.samples
    built: dict[str, Metric] = {}
    for name in usable_metrics(config, data.source):
        built |= _metrics_by_domain(name, config.metrics[name], data)
    for name, metric in list(built.items()):
        _verify_metric(name, metric, config.task["name"], task, data.source)
        if metric.min_samples > images * samples:
            fallback = metric.fallback
            arguments = {k: v for k, v in config.metrics[name].items() if k in metrics.arguments(fallback)}
            raisable = "measure.images" if images == config.measure.images else "measure.samples"  # or no image is left
            rank_zero_warn(
                f"{name} needs {metric.min_samples} samples or more, and there are {images * samples} ({images} "
                f"images, {samples} of each); {fallback} is reported instead. Raise {raisable} to have {name}.",
                category=Note,
            )
            built.setdefault(fallback, _metric(fallback, arguments, data))
            del built[name]
    return built


def _verify_metric(name: str, metric: Metric, task_name: str, task: Task, source: DataSource) -> None:
    """Verify that a metric scores what the task predicts, and that the data set has what it is compared with.

    Raises:
        BadConfig: It does not.
    """
    kinds = [task.output_kind] if isinstance(task.output_kind, str) else task.output_kind
    if metric.output_kind not in kinds:
        fitting = {n for n in metrics.names() if metrics.literal(n, "output_kind", "images") in kinds}
        known = ", ".join(sorted(fitting | {*task.metrics}))
        raise BadConfig(
            f"metrics: {name} scores {metric.output_kind}, and the task {task_name} predicts {' and '.join(kinds)}; "
            f"choose from: {known or 'none'}."
        )
    if metric.annotation is None:
        return
    records = source.eval_records()
    annotated, images = source.num_annotated(metric.annotation, records), len(records)
    if not annotated:
        raise BadConfig(
            f"metrics: {name} compares {metric.annotation}, and {source.name} has none of its {source.eval_split} "
            f"split; unpack those files there, or leave {name} out of metrics."
        )
    if annotated < images:
        rank_zero_warn(f"{name}: {annotated} of {images} evaluated images have {metric.annotation}.", category=Note)


def build_cache_options(config: Config) -> CacheOptions:
    """Return the cache settings; nothing of a stream is cached, whose images have no list."""
    streaming = config.data.get("streaming", False)
    return CacheOptions(
        mode="never" if streaming else config.cache,
        root=Path(config.runs) / "cache",
        limit_bytes=config.cache_gb * 1e9,
        batch_size=config.batch,
        num_images=config.steps * config.accumulate * config.batch,
        seed=config.seed,
        task=config.task["name"] if config.task["name"] != DEFAULT_TASK else None,
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
    """Build a component of the config with those supplies that its factory asks for by keyword-only parameters.

    Raises:
        BadPlugin: It asks for something that a run does not supply.
    """
    name = component["name"]
    needs = registry.needs(name)
    if unknown := sorted(needs - supplies.keys()):
        raise BadPlugin(
            f"the {registry.noun} '{name}' asks for '{unknown[0]}', which a run does not supply; keyword-only "
            f"parameters of a {registry.noun} may be: {', '.join(sorted(supplies))}."
        )
    supplied = {key: supply() for key, supply in supplies.items() if key in needs}
    slot = next(slot for slot, candidate in REGISTRIES.items() if candidate is registry)
    with _name_keys(f"{slot}.{name}" if registry is metrics else slot, list(registry.arguments(name))):
        return registry.build(**component, **supplied)


@contextmanager
def _name_keys(prefix: str, arguments: list[str]) -> Iterator[None]:
    """Have a mistake about weights name a key of the config, as in backbone.weights=DIR.

    Args:
        prefix: Beginning of the keys of the component.
        arguments: Its arguments; the one that gives the weights is called `weights`, or is the first.
    """
    try:
        yield
    except WeightsMissing as error:
        key = "weights" if "weights" in arguments or not arguments else arguments[0]
        message = re.sub(r" weights=(?=\w)", f" {prefix}.{key}=", str(error))
        raise WeightsMissing(re.sub(r" (vae|controlnet)=(?=\w)", rf" {prefix}.\1=", message)) from error


def _load_base(config: Config) -> StableDiffusion:
    options = config.diffusion
    with _name_keys("diffusion", ["weights"]):
        base = load(options.weights, options.size, options.revision, config.diffusion.vae)
    _check_size(config.size, base.downscale)  # before the other networks are loaded
    return base


def _load_controlnet(weights: str | None) -> ControlNetModel | None:
    with _name_keys("diffusion", ["controlnet"]):
        return load_controlnet(weights) if weights is not None else None


def _check_size(size: int, cell: int) -> None:
    if size % cell:
        raise BadConfig(
            f"size={size} does not divide into the autoencoder's {cell} px cells; "
            f"choose {size // cell * cell} or {(size // cell + 1) * cell}."
        )


def _changed_arguments(registry: Registry, component: dict[str, Any]) -> dict[str, Any]:
    """Return name and arguments of a component, without arguments at their default."""
    defaults = {name: argument.default for name, argument in registry.arguments(component["name"]).items()}
    return {k: v for k, v in component.items() if k == "name" or v != defaults.get(k)}


def _metrics_by_domain(name: str, arguments: dict[str, Any], data: DataModule) -> dict[str, Metric]:
    """Return a metric by its name; with unseen data also that of each unseen domain, and that of their mean."""
    if data.unseen is None:
        return {name: _metric(name, arguments, data)}
    if "domains" not in metrics.needs(name):
        raise BadConfig(
            f"metrics: {name} has no values by domain, so it would mix the images of {data.source.name} with those of "
            f"the unseen {data.unseen.name}; leave {name} out of metrics, or leave out task.unseen."
        )
    groups = group_domains(data.source, data.unseen)
    return {"-".join(filter(None, [name, group.title])): _metric(name, arguments, data, group) for group in groups}


def _metric(name: str, arguments: dict[str, Any], data: DataModule, domains: DomainGroups | None = None) -> Metric:
    supplies = {
        "domains": lambda: domains,
        "classes": lambda: data.source.classes,
        "box_classes": lambda: data.source.box_classes,
        "questions": lambda: _questions(data),
    }
    return _build(metrics, {"name": name, **arguments}, supplies)


def _questions(data: DataModule) -> Callable[[Batch], list] | None:
    """Return the data set's questions; None if it has none about the captions of the evaluated images."""
    source = data.source
    questioned, images = source.num_questioned(), len(source.eval_records())
    if 0 < questioned < images:
        rank_zero_warn(
            f"there are questions about {questioned} of {images} evaluated images; `lumen questions` writes more.",
            category=Note,
        )
    return source.questions if questioned else None
