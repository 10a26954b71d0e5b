"""Schema of a config: keys and their types. `experiments/base.yaml` has the values and names their sources."""

from collections.abc import Iterator
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Annotated, Any, Literal, get_args, get_type_hints

from lumen.core.ranges import Count, Range, Seed, Share
from lumen.core.registry import Registry, backbones, conditionings, datamodules, generators, metrics, tasks

# Keys that hold one component each: its name and its arguments.
SLOTS: dict[str, Registry] = {
    "data": datamodules,
    "task": tasks,
    "generator": generators,
    "backbone": backbones,
    "conditioning": conditionings,
}
# Arguments of a component that hold a component themselves.
NESTED_SLOTS: dict[str, Registry] = {"task.unseen": datamodules}
ALL_SLOTS = SLOTS | NESTED_SLOTS
REGISTRIES = SLOTS | {"metrics": metrics}


@dataclass
class DiffusionOptions:
    """Options of the frozen diffusion model and of how the layout enters it."""

    weights: str
    size: Literal["tiny", "v1", "v2"]
    revision: str | None
    vae: str | None
    controlnet: str | None
    hint: Literal["auto", "latent", "image"]
    snr_gamma: Annotated[float, Range(1e-9, 1_000_000_000)] | None
    checkpointing: bool


@dataclass
class SamplingOptions:
    """Options of the sampler."""

    sampler: Literal["ddim", "dpm"]
    steps: Annotated[int, Range(1, 1000)]  # timesteps that Stable Diffusion is trained with
    guidance: Annotated[float, Range(0, 1000)]
    negative: str
    control_end: Share
    images: Annotated[int, Range(1, 1000)]


@dataclass
class EvaluationOptions:
    """Images and reference rows of an evaluation."""

    images: Annotated[int, Range(1, 10_000_000)]
    samples: Annotated[int, Range(1, 10_000)]
    save_samples: bool
    save_predictions: bool
    anchors: list[str]
    questions: str | None


@dataclass
class Intervals:
    """Optimiser steps between two events of a kind."""

    log: Count
    validate: Count
    checkpoint: Count


@dataclass
class WandbOptions:
    """Options of Weights & Biases."""

    mode: Literal["auto", "online", "offline", "disabled"]
    entity: str | None
    group: str | None
    tags: list[str]
    notes: str | None
    images: Annotated[int, Range(0, 100_000)]
    artifacts: bool


@dataclass
class Config:
    """Config of one run.

    A component is a dict of its name and its arguments. `metrics` holds the arguments of each metric by its name.
    """

    data: dict[str, Any]
    task: dict[str, Any]
    generator: dict[str, Any]
    backbone: dict[str, Any]
    conditioning: dict[str, Any]
    metrics: dict[str, Any]
    diffusion: DiffusionOptions
    sampling: SamplingOptions
    measure: EvaluationOptions
    every: Intervals
    size: Annotated[int, Range(1, 16_384)]
    steps: Annotated[int, Range(0, 1_000_000_000)]  # the task sets the lower end
    batch: Annotated[int, Range(1, 100_000)]
    accumulate: Annotated[int, Range(1, 10_000)]
    memory: Count | None
    lr: Annotated[float, Range(1e-15, 100)]
    warmup: Annotated[int, Range(0, 1_000_000_000)]
    lr_schedule: Literal["auto", "constant", "linear", "cosine"]
    weight_decay: Annotated[float, Range(0, 1000)]
    clip: Annotated[float, Range(0, 1_000_000_000)]
    prompt_dropout: Share
    ema: Share
    validation: Annotated[int, Range(1, 10_000_000)]
    validation_images: list[str]
    validation_prompts: list[str]
    seed: Seed
    precision: Literal["auto", "32-true", "bf16-mixed", "16-mixed"]
    accelerator: Literal["auto", "cpu", "gpu"]
    devices: Annotated[int, Range(1, 1024)]
    nodes: Annotated[int, Range(1, 100_000)]
    workers: Annotated[int, Range(0, 1024)]
    strategy: str
    compile: bool
    exact: bool
    elastic: bool
    stop_after: str | None
    runs: str
    name: str | None
    logger: list[Literal["wandb", "tensorboard", "csv", "mlflow"]]
    wandb: WandbOptions
    project: str
    cache: Literal["auto", "always", "never"]
    cache_gb: Annotated[float, Range(1e-9, 1_000_000_000)]
    cache_text: bool
    views: Annotated[int, Range(1, 1000)] | None
    keep: Count
    best: Literal["val/loss"] | None
    # Records of where the config comes from, which are no settings.
    experiment: str = ""
    defaults: dict[str, Any] = field(default_factory=dict)  # of the experiment, for components that are named later
    flags: dict[str, Any] = field(default_factory=dict)  # overrides of the command line


# Keys of where and how a run is computed, which change no result: they do not name its directory.
# `devices` and `nodes` do: a batch is per device, so they change the number of images in a step.
NON_RESULT_KEYS = {"runs", "name", "workers", "accelerator", "strategy", "compile", "exact", "elastic", "stop_after",
                   "logger", "keep", "best", "cache", "cache_gb", "cache_text", "every.log", "every.validate",
                   "every.checkpoint", "data.root", "task.unseen.root", "seed",
                   "validation_images", "validation_prompts", "measure.save_samples",
                   "measure.save_predictions"}  # fmt: skip
# Other names of keys. The first release wrote `wandb` for its mode, so it stands in its files too.
KEY_ALIASES = {"wandb": "wandb.mode", "wandb.project": "project"}
NON_RESULT_KEYS |= {"project", *KEY_ALIASES, *(f"wandb.{option.name}" for option in fields(WandbOptions))}
# Keys that a config.yaml of the first release lacks, with their defaults. At its default such a key is no part of the
# name or hash of a run. Add every new key here.
DEFAULT_TASK, DEFAULT_GENERATOR = "layout_to_image", "controlnet"
LATER_KEYS = {"task.name": DEFAULT_TASK, "generator.name": DEFAULT_GENERATOR, "data.skies": None, "data.fit": None,
              "diffusion.controlnet": None, "lr_schedule": "auto", "data.streaming": False, "data.streams": 16,
              "data.buffer": 256}  # fmt: skip
# Keys of the directory of another run; what that one learnt, a checkpoint verifies.
RUN_KEYS = {"task.synthetic", "task.filter_run"}
# Keys of how generated images are mixed with real ones.
MIXING_KEYS = ("task.domains", "task.share", "task.copies", "task.row", "task.filter", "task.filter_run")
# Keys and groups that a further evaluation of a trained run may change; all others were decided by its training.
EVALUATION_KEYS = (
    "sampling", "metrics", "measure", "data", "validation", "batch", "workers", "seed", "precision", "accelerator",
    "devices", "nodes", "strategy", "wandb", "project", "best", "stop_after", "task.unseen",
)  # fmt: skip
# Keys of how the images of a step are divided. Of an elastic run only their product changes the result.
BATCH_SPLIT_KEYS = ("batch", "accumulate", "devices", "nodes")


def split_key(key: str) -> tuple[str, str]:
    """Return the slot or group that a key belongs to and the rest of it, such as `task.unseen` and `skies`."""
    for slot in NESTED_SLOTS:
        if key == slot or key.startswith(f"{slot}."):
            return slot, key[len(slot) + 1 :]
    first, _, argument = key.partition(".")
    return first, argument


def iterate_ranges(schema: type, prefix: str = "") -> Iterator[tuple[str, Range]]:
    """Yield the range of each number of a schema by its dotted key."""
    for name, hint in get_type_hints(schema, include_extras=True).items():
        if is_dataclass(hint):
            yield from iterate_ranges(hint, f"{prefix}{name}.")
        for kind in (hint, *get_args(hint)):  # the arguments are those of a union with None
            yield from ((f"{prefix}{name}", limits) for limits in getattr(kind, "__metadata__", ()))


RANGES = dict(iterate_ranges(Config))
