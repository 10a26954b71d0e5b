"""Schema of a config: keys and their types. `experiments/base.yaml` has the values and names their sources."""

from dataclasses import dataclass, field
from typing import Any, Literal

from lumen.core.registry import Registry, backbones, conditionings, datamodules, generators, metrics, tasks

# Keys that hold one component each: its name and its arguments.
SLOTS: dict[str, Registry] = {
    "data": datamodules,
    "task": tasks,
    "generator": generators,
    "backbone": backbones,
    "conditioning": conditionings,
}
REGISTRIES = SLOTS | {"metrics": metrics}


@dataclass
class DiffusionOptions:
    """Options of the frozen diffusion model and of how the layout enters it."""

    weights: str
    size: Literal["tiny", "v1", "v2"]
    revision: str | None
    vae: str | None
    hint: Literal["auto", "latent", "image"]
    snr_gamma: float | None
    checkpointing: bool


@dataclass
class SamplingOptions:
    """Options of the sampler."""

    sampler: Literal["ddim", "dpm"]
    steps: int
    guidance: float
    negative: str
    control_end: float
    images: int


@dataclass
class EvaluationOptions:
    """Images and reference rows of an evaluation."""

    images: int
    samples: int
    anchors: list[str]
    questions: str | None


@dataclass
class Intervals:
    """Optimiser steps between two events of a kind."""

    log: int
    validate: int
    checkpoint: int


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
    size: int
    steps: int
    batch: int
    accumulate: int
    memory: int | None
    lr: float
    warmup: int
    weight_decay: float
    clip: float
    prompt_dropout: float
    ema: float
    validation: int
    seed: int
    precision: Literal["auto", "32-true", "bf16-mixed", "16-mixed"]
    accelerator: Literal["auto", "cpu", "gpu"]
    devices: int
    nodes: int
    workers: int
    strategy: str
    compile: bool
    exact: bool
    elastic: bool
    stop_after: str | None
    runs: str
    wandb: Literal["auto", "online", "offline", "disabled"]
    project: str
    cache: Literal["auto", "always", "never"]
    cache_gb: float
    cache_text: bool
    views: int | None
    keep: int
    best: Literal["val/loss"] | None
    # Records of where the config comes from, which are no settings.
    experiment: str = ""
    defaults: dict[str, Any] = field(default_factory=dict)  # of the experiment, for components that are named later
    flags: dict[str, Any] = field(default_factory=dict)  # overrides of the command line


# Keys of where and how a run is computed, which change no result: they do not name its directory.
# `devices` and `nodes` do: a batch is per device, so they change the number of images in a step.
NON_RESULT_KEYS = {"runs", "workers", "accelerator", "strategy", "compile", "exact", "elastic", "stop_after", "wandb",
                   "project", "keep", "best", "cache", "cache_gb", "cache_text", "every.log", "every.validate",
                   "every.checkpoint", "data.root", "seed"}  # fmt: skip
# Keys that a config.yaml of the first release lacks, with their defaults. At its default such a key is no part of the
# name or hash of a run. Add every new key here.
DEFAULT_TASK = "layout_to_image"
LATER_KEYS = {"task.name": DEFAULT_TASK, "generator.name": "controlnet"}
# Keys of how the images of a step are divided. Of an elastic run only their product changes the result.
BATCH_SPLIT_KEYS = ("batch", "accumulate", "devices", "nodes")
# Ranges of values.
POSITIVE_KEYS = {"size", "steps", "batch", "accumulate", "devices", "nodes", "lr", "sampling.steps", "sampling.images",
                 "measure.images", "measure.samples", "every.log", "every.validate", "every.checkpoint", "validation",
                 "keep", "cache_gb"}  # fmt: skip
NONNEGATIVE_KEYS = {"warmup", "weight_decay", "clip", "workers", "sampling.guidance"}
FRACTION_KEYS = {"prompt_dropout", "ema", "sampling.control_end"}
