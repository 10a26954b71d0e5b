"""Cost estimate of a run before it starts: parameters, FLOPs, memory, cache, disk; nothing is downloaded or trained."""

import copy
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from lumen.config.schema import Config
from lumen.core.errors import DatasetMissing, WeightsMissing
from lumen.core.interfaces import Stage, Task, trainable_parameters
from lumen.data.source import DataSource
from lumen.runs.build import HALF_PRECISION, build_task
from lumen.runs.cost.memory import MemoryTracker, allocate, backward, track_memory
from lumen.runs.data import build_data, build_source


@dataclass(frozen=True)
class Cost:
    """Cost of a run in bytes and FLOPs; a multiplication and an addition are two FLOPs.

    Attributes:
        parameters: Parameters by network; the last network is trained.
        flops: FLOPs of one training image by part.
        cached_parts: Parts that the cache replaces.
        held: Bytes that stay on the device.
        peaks: Most bytes at once, by phase.
        cache_bytes: Bytes in the cache, of one view of one image.
        precomputed: Bytes in the cache of what is generated before training, of one view of one image, by set.
        views: Cached views of an image: two if images are mirrored, none if every epoch crops anew.
        images: Images of the training split, as counted on this machine or else as published; None if neither is known.
        is_data_here: Whether the data set is on this machine.
        checkpoint: Bytes of one checkpoint.
        precision: Lightning's name of the precision.
        uncounted: Name of a component whose networks are not counted.
        display_names: Names for readers, by network and part.
        phase_names: Names for readers, by phase.
    """

    parameters: dict[str, int]
    flops: dict[str, int]
    cached_parts: set[str]
    held: dict[str, int]
    peaks: dict[str, int]
    cache_bytes: int
    precomputed: dict[str, int]
    views: int
    images: int | None
    is_data_here: bool
    checkpoint: int
    precision: str
    uncounted: str | None
    display_names: dict[str, str]
    phase_names: dict[str, str]

    @property
    def image(self) -> int:
        """FLOPs of a training image without a cache."""
        return sum(self.flops.values())

    @property
    def cached(self) -> int:
        """FLOPs of a training image whose frozen outputs are cached."""
        return sum(n for part, n in self.flops.items() if part not in self.cached_parts)


def estimate_cost(config: Config) -> Cost:
    """Return the cost of a run on a GPU, unless accelerator=cpu."""
    task, uncounted = build_on_meta(config)
    precision = config.precision if config.precision != "auto" else "bf16-mixed"
    if config.accelerator == "cpu" and config.precision == "auto":
        precision = "32-true"
    held, peaks = estimate_memory(task, config, HALF_PRECISION[precision])
    trained = sum(p.numel() for p in trainable_parameters(task))
    flops, cached_values = count_flops(task, config.size)
    images, is_data_here = _count_images(config)
    return Cost(
        parameters=_count_parameters(task),
        flops=flops,
        cached_parts=set(cached_values),
        held=held,
        peaks=peaks,
        cache_bytes=cache_bytes(precision, sum(cached_values.values())),
        precomputed=task.precomputed_bytes(config.size),
        views=_offline_source(config).num_views() or 0,
        images=images,
        is_data_here=is_data_here,
        checkpoint=trained * 4 * (4 if config.ema else 3),
        precision=precision,
        uncounted=uncounted,
        display_names=task.display_names,
        phase_names=task.phase_names,
    )


def build_on_meta(config: Config) -> tuple[Task, str | None]:
    """Return a run's task without memory, and the name of a component whose networks are not part of it.

    The architecture of weights in a folder is read there; that of weights on a hub follows from `size`.
    """
    config = replace(config, conditioning={k: v for k, v in config.conditioning.items() if k != "basis"})
    data = build_data(_without_root(config))
    with torch.device("meta"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*to a meta parameter")  # nothing of a file is kept
        try:
            task, uncounted = build_task(config, data), None
        except WeightsMissing:
            uncounted = config.conditioning["name"]
            task = build_task(replace(config, conditioning={"name": "blank"}), data)
    return task, task.uncounted or uncounted


def count_flops(task: Task, size: int) -> tuple[dict[str, int], dict[str, int]]:
    """Return the FLOPs of one training image by part, and the cached values by part.

    Activations that `checkpointing` recomputes are counted.
    """
    task, flops, cached_values = copy.deepcopy(task), {}, {}
    # Attention as plain products: all kernels need the same FLOPs, and the counter does not know the one for CPUs.
    with track_memory() as (tracker, _), sdpa_kernel(SDPBackend.MATH):
        _allocate(task, tracker)
        stages = task.stages(torch.empty(1, 3, size, size))
        for stage, counter in _counted(stages):
            flops[stage.name] = counter.get_total_flops()
            if stage.cached_values:
                cached_values[stage.name] = stage.cached_values
            if stage.loss is not None and stage.loss.requires_grad:
                flops |= _count_backward(stage, counter, task.trained_network)
    return flops, cached_values


def count_sample_flops(config: Config, row: str = "test", task: Task | None = None) -> int:
    """Return the FLOPs of an image that a run generates; 0 if its task has no such stages.

    Args:
        row: "test", or a reference row of its task.
        task: Task of the run, if it was built on the meta device before.
    """
    task, sampling = copy.deepcopy(task) if task else build_on_meta(config)[0], config.sampling
    with torch.no_grad(), track_memory() as (tracker, _), sdpa_kernel(SDPBackend.MATH):
        _allocate(task, tracker)
        stages = task.sample_stages(torch.empty(1, 3, config.size, config.size), sampling.guidance, row)
        return sum(
            counter.get_total_flops() * (sampling.steps if stage.repeats is None else stage.repeats)
            for stage, counter in _counted(stages)
        )


def _counted(stages: Iterator[Stage]) -> Iterator[tuple[Stage, FlopCounterMode]]:
    """Yield each stage with the counter of its FLOPs, which is still active."""
    while True:
        with FlopCounterMode(display=False) as counter:
            if (stage := next(stages, None)) is None:
                return
            yield stage, counter


def _count_backward(stage: Stage, counter: FlopCounterMode, trained_network: str) -> dict[str, int]:
    """Run the backward pass; return the FLOPs of both passes, of the trained network apart from the frozen ones."""
    total = counter.get_total_flops()
    if stage.trained is None:
        backward(stage.loss)
        return {stage.name: total, f"{stage.name}, backward": counter.get_total_flops() - total}
    kind = type(stage.trained).__name__
    forward = _flops_of(counter, kind)
    backward(stage.loss)
    back = _flops_of(counter, kind) - forward
    # The backward passes of the frozen network lie around those of the trained one.
    return {
        stage.name: total - forward,
        trained_network: forward,
        f"{stage.name}, backward": counter.get_total_flops() - total - back,
        f"{trained_network}, backward": back,
    }


def estimate_memory(task: Task, config: Config, half: torch.dtype | None) -> tuple[dict[str, int], dict[str, int]]:
    """Return bytes on the device in the second optimiser step: what stays there, and the peak of each phase."""
    task = copy.deepcopy(task)
    peaks: dict[str, int] = {}
    with track_memory(half) as (tracker, autocast):
        held = _allocate(task, tracker)
        weights = trainable_parameters(task)
        weight_bytes = sum(p.nbytes for p in weights)
        for p in weights:
            p.grad = torch.empty_like(p)
        if optimizer := task.configure_optimizers():  # there is none where nothing is trained
            optimizer = optimizer["optimizer"] if isinstance(optimizer, dict) else optimizer
            for group in optimizer.param_groups:  # PyTorch's choice for tensors on a GPU
                group["foreach"] = not group.get("fused") and config.accelerator != "cpu"
            optimizer.step()
        copies = {"gradients": weight_bytes, "AdamW": 2 * weight_bytes}
        copies |= {"average": weight_bytes} if config.ema else {}
        copies |= {"gradients that are sent": weight_bytes} if config.devices * config.nodes > 1 else {}
        untracked = sum(copies.values()) - 3 * weight_bytes  # held on the device, but not allocated here
        peaks["update"] = tracker.pop_peak() + untracked
        image = torch.empty(config.batch, 3, config.size, config.size)

        def pop_peak(phase: str) -> None:
            peaks[phase] = tracker.pop_peak() + untracked

        def mixed_precision():
            return torch.autocast("cpu", dtype=half, enabled=half is not None)

        stages = task.stages(image)
        while True:
            with mixed_precision():
                stage = next(stages)
            if stage.loss is not None:
                autocast.casts = None
            if stage.phase:
                pop_peak(stage.phase)
            if stage.loss is not None:
                break
        if config.accumulate == 1:  # the gradients of the last micro-batch stay until the backward pass
            task.zero_grad(set_to_none=True)
        if stage.loss.requires_grad:
            backward(stage.loss)
            pop_peak("backward")
        del stage, stages
        with torch.no_grad(), mixed_precision():
            for stage in task.preview_stages(image[:1], config.sampling.guidance):
                if stage.phase:
                    pop_peak(stage.phase)
    return held | copies, peaks


def cache_bytes(precision: str, values: int) -> int:
    """Return the bytes that the cache holds of so many values."""
    return (4 if precision == "32-true" else 2) * values


def _networks(task: Task) -> dict[str, nn.Module]:
    return task.frozen_networks | {task.trained_network: task}


def _count_parameters(task: Task) -> dict[str, int]:
    """Return the parameters of each network; those that two networks share count for the first."""
    counted: set[Tensor] = set()
    counts = {}
    for name, network in _networks(task).items():
        own = set(network.parameters()) - counted
        counted |= own
        counts[name] = sum(p.numel() for p in own)
    return counts


def _allocate(task: Task, tracker: MemoryTracker) -> dict[str, int]:
    """Allocate all networks where memory is tracked; return the bytes of each, of shared ones once."""
    held, allocated = {}, set()
    for name, network in _networks(task).items():
        before = tracker.current
        allocate(network, allocated)
        held[name] = tracker.current - before
    return held


def _flops_of(counter: FlopCounterMode, network: str) -> int:
    return sum(counter.get_flop_counts().get(network, {}).values())


def _count_images(config: Config) -> tuple[int | None, bool]:
    """Return the number of training images, and whether the data set is on this machine to be counted."""
    source = _offline_source(config)
    try:
        return len(source.train_records()), True
    except DatasetMissing:
        return source.published_images.get("train"), False


def _offline_source(config: Config) -> DataSource:
    """Return the data set, which need not be there: its folder is read when records are asked for."""
    return build_source(_without_root(config))


def _without_root(config: Config) -> Config:
    """Return the config without folders of images, none of which is read."""
    task = config.task | ({"unseen": None} if "unseen" in config.task else {})
    return replace(config, task=task, data=config.data | ({"root": ""} if config.data.get("root", "") is None else {}))
