"""The keys of an experiment and their types; base.yaml has the values and says where they come from."""

from dataclasses import dataclass, field
from typing import Any, Literal

from lumen.core.registry import Registry, backbones, conditionings, datamodules, metrics

SLOTS: dict[str, Registry] = {"data": datamodules, "backbone": backbones, "conditioning": conditionings}
REGISTRIES = SLOTS | {"metrics": metrics}


@dataclass
class Diffusion:
    weights: str
    size: Literal["tiny", "v1", "v2"]
    revision: str | None
    vae: str | None
    hint: Literal["auto", "latent", "image"]
    snr_gamma: float | None
    checkpointing: bool


@dataclass
class Sampling:
    sampler: Literal["ddim", "dpm"]
    steps: int
    guidance: float
    negative: str
    control_end: float
    images: int


@dataclass
class Measure:
    images: int
    samples: int
    anchors: list[Literal["real", "vae", "text", "shuffled"]]
    questions: str | None


@dataclass
class Every:
    log: int
    validate: int
    checkpoint: int


@dataclass
class Config:
    """One run, whole: a component is its name and its arguments; of metrics there are several."""

    data: dict[str, Any]
    backbone: dict[str, Any]
    conditioning: dict[str, Any]
    metrics: dict[str, Any]
    diffusion: Diffusion
    sampling: Sampling
    measure: Measure
    every: Every
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
    # Which experiment this is and what was changed in it: the run's name, not settings of their own.
    experiment: str = ""
    defaults: dict[str, Any] = field(default_factory=dict)  # of the experiment, for components that are named later
    flags: dict[str, Any] = field(default_factory=dict)


# Where and how a run is made, not what it computes: these flags do not name its folder.
# devices and nodes do: a batch is per device, so they change how many images make a step.
PLACE = {"runs", "workers", "accelerator", "strategy", "compile", "exact", "elastic", "stop_after", "wandb", "project",
         "keep", "best", "cache", "cache_gb", "cache_text", "every.log", "every.validate", "every.checkpoint",
         "data.root", "seed"}  # fmt: skip
# How the images of a step are shared out; of an elastic run only their product counts.
SHARES = ("batch", "accumulate", "devices", "nodes")
POSITIVE = {"size", "steps", "batch", "accumulate", "devices", "nodes", "lr", "sampling.steps", "sampling.images",
            "measure.images", "measure.samples", "every.log", "every.validate", "every.checkpoint", "validation",
            "keep", "cache_gb"}  # fmt: skip
NONNEGATIVE = {"warmup", "weight_decay", "clip", "workers", "sampling.guidance"}
FRACTION = {"prompt_dropout", "ema", "sampling.control_end"}
