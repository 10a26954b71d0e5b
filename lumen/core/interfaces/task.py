"""Task: learning problem of a run, as a LightningModule, with the outputs that are scored."""

import warnings
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.plugins.precision import MixedPrecision, Precision
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import Optimizer

from lumen import __version__
from lumen.core.errors import BadCheckpoint, BadConfig
from lumen.core.interfaces.batch import Batch
from lumen.core.interfaces.optimization import Optimization
from lumen.core.interfaces.script import WeightsExpression
from lumen.core.interfaces.stage import Preview, Stage
from lumen.core.random import stable_seed
from lumen.core.tensor_hashing import fingerprint


class Task(LightningModule):
    """Learning problem of a run, with the outputs that are scored.

    Subclasses implement `training_step` and `validation_step`, which logs `val/loss`, and `outputs`. Trainer,
    callbacks, cache, evaluation loop and cost estimate know a task by this interface alone. Optimisation stays
    automatic, also for adversarial losses: one backward pass with parameter groups.

    Args:
        optimization: Options of AdamW.
        seed: Seed of all randomness of training. Randomness is keyed by (seed, image id, step), so one process and
            eight sample the same.
        frozen: Frozen networks by name. They follow the task to its device, but are neither trained nor stored in
            checkpoints.

    Attributes:
        output_kind: Kind of the outputs, such as images in [-1, 1]; metrics of the same kind score them. A task with
            several kinds names them all, and its outputs are a dict by kind.
        lr_schedule: Schedule of the learning rate, unless a config names one.
        min_steps: Fewest optimiser steps of a run; 0 if the task learns what it learns without any.
        is_prompted: Whether a sample follows a prompt, or a layout alone.
        takes_layouts: Whether `outputs` takes a layout that did not come from the batch, such as an edited one.
        metrics: Metrics of this task, or a dict of their arguments; they replace those that an experiment names for the
            default task.
        reference_rows: Reference rows by key, each with its label in tables: outputs that a metric is compared with.
        shared_rows: Reference rows that are the same for all runs of one protocol, whatever was learnt.
        display_names: Names for readers, by name of a network or stage of the cost estimate.
        phase_names: Names for readers, by phase of the cost estimate.
        trained_network: Name of the trained network in the cost estimate.
        weights_hint: Words that say how a user restores the frozen weights of a checkpoint.
    """

    output_kind: str | tuple[str, ...] = "images"
    lr_schedule = "constant"
    min_steps = 1
    is_prompted = True
    takes_layouts = False
    metrics: tuple[str, ...] | dict[str, dict[str, Any]] = ()
    reference_rows: dict[str, str] = {}
    shared_rows: tuple[str, ...] = ()
    display_names: dict[str, str] = {}
    phase_names: dict[str, str] = {
        "update": "while AdamW updates",
        "forward": "at the end of the forward pass",
        "backward": "in the backward pass",
    }
    trained_network = "task"
    weights_hint = "the weights that it was trained with"

    def __init__(self, optimization: Optimization, seed: int = 0, **frozen: nn.Module):
        super().__init__()
        self.optimization, self.seed = optimization, seed
        # A plain dict keeps them out of state_dict, DDP buckets, EMA and train mode.
        self._frozen = {name: network.requires_grad_(False).eval() for name, network in frozen.items()}

    # ---- networks

    @property
    def frozen_networks(self) -> dict[str, nn.Module]:
        """Networks that training must not change, by name."""
        return self._frozen

    @cached_property
    def identity(self) -> dict[str, str]:
        """Hash of the frozen weights that a checkpoint belongs to, by network."""
        return {name: fingerprint(network) for name, network in self.frozen_networks.items()}

    @property
    def source(self) -> str:
        """Origin of the frozen weights, for provenance."""
        return ", ".join(f"{name} {digest}" for name, digest in self.identity.items()) or "none"

    # ---- statistics and cache

    def fit_statistics(self, data: LightningDataModule, cached: Callable[..., Tensor] | None = None) -> None:
        """Estimate parameters that follow from statistics of the training set, such as a PCA basis.

        Both the cache and the start of a fit call it, also after a checkpoint was restored; then it does nothing.

        Args:
            cached: Function of (key, number of images, compute) that returns cached statistics, or computes them.
        """

    def cache_keys(self, arguments: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        """Return the cacheable outputs of frozen networks by name, with everything each depends on besides the image.

        Args:
            arguments: Arguments of each component of the config that differ from their defaults.
        """
        return {}

    def precomputed_keys(self) -> dict[str, dict[str, Any]]:
        """Return the inputs of training that are computed before it starts, in the form of `cache_keys`.

        They take too long to be computed in a step, so they are cached whatever the config says about the cache.
        """
        return {}

    def precomputed_bytes(self, size: int) -> dict[str, int]:
        """Return the bytes per training image of each of `precomputed_keys`, for images of this side in pixels."""
        return {}

    def encode(self, name: str, batch: Batch) -> Tensor:
        """Return one cacheable output of a batch; those before it in `cache_keys` may be in `batch.cached`."""
        raise NotImplementedError(f"{type(self).__name__} must implement encode()")

    def needs_images(self, cached: Iterable[str]) -> bool:
        """Return whether a training step reads images although these outputs are cached."""
        return True

    # ---- outputs

    def outputs(
        self,
        batch: Batch,
        seeds: list[list[int]],
        row: str = "test",
        other: Callable[[], Batch] | None = None,
        **sampling: Any,
    ) -> Tensor | dict[str, Tensor]:
        """Return the outputs (b, n, ...) of a batch, n per image; of a task with several kinds, those of each kind.

        Args:
            seeds: For each of the n outputs one seed per image.
            row: "test", or a reference row.
            other: Reads other images of the same data set, for rows that compare with a mismatch.
            sampling: The config's `sampling`, without the number of images. A task with `takes_layouts` also takes
                `layout`, which stands in place of the batch's own.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement outputs()")

    def num_outputs(self, row: str, samples: int) -> int:
        """Return the outputs per image of a row: one where it is deterministic."""
        return samples

    def preview(self, batch: Batch, num_samples: int, seed: int, **sampling: Any) -> Preview | None:
        """Return pictures of fixed validation images, if the task has some."""
        return None

    def visualize(self, batch: Batch) -> Tensor | None:
        """Return a picture (b, 3, h, w) in [0, 1] of what steers the outputs, such as the layout."""
        return None

    def layout(self, batch: Batch) -> Tensor | None:
        """Return what steers the outputs, if anything but the image does, such as the layout (b, k, h, w)."""
        return None

    def visualize_layout(self, layout: Tensor) -> Tensor:
        """Return a picture (b, 3, h, w) in [0, 1] of layouts that `layout` returned, or of edited ones."""
        raise NotImplementedError(f"{type(self).__name__} must implement visualize_layout()")

    @property
    def explained(self) -> list[float] | None:
        """Share of each axis of the layout in the variance of all of them; None where it has no axes."""
        return None

    @property
    def legend(self) -> str:
        """Words that explain the picture of `visualize`, and the column "layout" of a preview."""
        return ""

    def protocol(self) -> dict[str, Any]:
        """Return everything besides data, sampling, seed and what was learnt that a metric value depends on.

        The weights of frozen networks belong to it, as their hashes.
        """
        return {}

    def summary_metrics(self) -> dict[str, float]:
        """Return further values for metrics.json."""
        return {}

    def save(self, directory: Path) -> None:
        """Write what was learnt, beside checkpoints, to a run directory."""

    def export(self, directory: Path, size: int, locate: WeightsExpression) -> dict[str, Any]:
        """Write what was learnt in formats that other programs open, and return what they need to know.

        Args:
            size: Side of the image in pixels.
            locate: Function that says where the weights of a frozen network lie.

        Raises:
            BadConfig: No other program opens it.
        """
        raise BadConfig("what this run has learnt is opened by LUMEN alone; name a run of the task layout_to_image.")

    # ---- cost

    @property
    def uncounted(self) -> str | None:
        """Name of a component whose networks the cost estimate cannot trace."""
        return None

    def stages(self, image: Tensor) -> Iterator[Stage]:
        """Run a training step on images without values, and yield each stage when it has run; the last has the loss."""
        mask = torch.zeros(len(image), *image.shape[-2:], dtype=torch.long)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*self.log")  # there is no trainer
            output = self.training_step(Batch(image, [""] * len(image), ["image"] * len(image), mask), 0)
        loss = output["loss"] if isinstance(output, dict) else output
        yield Stage("forward", "forward", loss=loss)

    def preview_stages(self, image: Tensor, guidance: float) -> Iterator[Stage]:
        """Run a preview on images without values, and yield its stages."""
        yield from ()

    def sample_stages(self, image: Tensor, guidance: float, row: str = "test") -> Iterator[Stage]:
        """Generate one output of a row for each image without values, and yield the stages."""
        yield from ()

    # ---- training

    def compile_networks(self) -> None:
        """Compile the networks of a training step with torch.compile."""

    def to_channels_last(self) -> None:
        """Lay out convolutions channels-last, which is faster on GPUs."""

    def on_fit_start(self) -> None:
        """Fit statistics that no checkpoint has restored, inside the process group, so that ranks share them."""
        self.fit_statistics(self.trainer.datamodule)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Seed randomness without a key, such as dropout, by the step: a resumed run draws the same."""
        torch.manual_seed(stable_seed(self.seed, self.global_rank, batch_idx))

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Return AdamW with its schedule; None if there is nothing to train."""
        options = self.optimization
        if not trainable_parameters(self):
            return None
        # Fused, it passes over the weights once, not a dozen times. On a CPU that gains a fiftieth of a step, for which
        # the bits of measured figures are not given up. fp16's scaler would be clipped before it unscales.
        fused = self.device.type == "cuda" and getattr(self.trainer.precision_plugin, "scaler", None) is None
        optimizer = torch.optim.AdamW(
            trainable_parameters(self), lr=options.lr, weight_decay=options.weight_decay, fused=fused
        )
        return options.schedule(optimizer, self.lr_schedule)

    def configure_gradient_clipping(
        self, optimizer: Optimizer, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        """Clip also for a fused optimiser in bf16, which Lightning refuses though there is nothing to unscale."""
        plugin = self.trainer.precision_plugin
        if isinstance(plugin, MixedPrecision) and plugin.scaler is None:
            Precision.clip_gradients(plugin, optimizer, gradient_clip_val or 0.0)
        else:
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        """Add the identity of the frozen networks, and the release of LUMEN, which ships small ones."""
        checkpoint["frozen"] = self.identity
        checkpoint["lumen"] = __version__

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        """Verify that a checkpoint belongs to this configuration.

        Raises:
            BadCheckpoint: It was trained with another backbone, number of components, or base model.
        """
        saved, current = checkpoint["state_dict"], self.state_dict()
        for name in sorted(saved.keys() | current.keys()):
            before, now = _shape(saved.get(name)), _shape(current.get(name))
            if before != now:
                raise BadCheckpoint(
                    f"this checkpoint belongs to another configuration: {name} has the shape {before} there and "
                    f"{now} here; give the settings that it was trained with."
                )
        for name, now in self.identity.items():
            if (before := checkpoint["frozen"].get(name)) != now:
                release = checkpoint.get("lumen", "0.1.0")
                small = f"; LUMEN {release} has those of weights=scenes in the folder lumen/scenes/weights"
                raise BadCheckpoint(
                    f"this checkpoint was trained on another {name} (weights {before}, here {now}); give "
                    f"{self.weights_hint}{small if release != __version__ else ''}."
                )

    def _apply(self, fn, recurse: bool = True):
        for network in self._frozen.values():
            network._apply(fn)
        return super()._apply(fn, recurse)


def trainable_parameters(module: nn.Module) -> list[nn.Parameter]:
    """Return the parameters that training changes."""
    return [p for p in module.parameters() if p.requires_grad]


def _shape(value: Any) -> tuple[int, ...] | None:
    return tuple(value.shape) if isinstance(value, Tensor) else None
