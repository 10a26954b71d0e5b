"""Lightning callbacks: divergence guard, EMA, throughput, learning rate and gradients, sample grid."""

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers.training_utils import EMAModel
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.optim import Optimizer

from lumen.core.errors import Diverged
from lumen.core.files import atomic_path
from lumen.core.interfaces import Batch, Task, trainable_parameters
from lumen.core.visualize import make_grid, save_grid
from lumen.training.lightning_internals import logged_step


class DivergenceGuard(Callback):
    """Stop of a run whose loss is not finite or whose frozen networks change.

    Args:
        frozen: Networks that must not change, by name.
        every: Optimiser steps between two checks of the loss; each waits for the GPU.
    """

    def __init__(self, frozen: dict[str, nn.Module], every: int):
        self.frozen, self.every = frozen, every
        self.checksums: dict[str, float] = {}

    def on_fit_start(self, trainer: Trainer, task: Task) -> None:
        self.checksums = self._checksums()

    def on_train_batch_end(self, trainer: Trainer, task: Task, outputs: Any, *_: Any) -> None:
        if trainer.global_step % self.every == 0:
            self._check_loss(trainer, outputs["loss"])

    def on_validation_start(self, trainer: Trainer, task: Task) -> None:
        self._check_frozen(trainer)

    def on_train_end(self, trainer: Trainer, task: Task) -> None:
        self._check_frozen(trainer)

    def on_save_checkpoint(self, trainer: Trainer, task: Task, checkpoint: dict[str, Any]) -> None:
        if not all(bool(p.isfinite().all()) for p in task.parameters()):
            self._check_loss(trainer, torch.tensor(math.nan))

    def _check_loss(self, trainer: Trainer, loss: Tensor) -> None:
        if not bool(loss.isfinite()):
            raise Diverged(
                f"at step {trainer.global_step} the loss is no longer a finite number; the last checkpoint before it "
                "is kept: lower lr, raise warmup, or set precision=32-true."
            )

    def _check_frozen(self, trainer: Trainer) -> None:
        changed = [name for name, value in self._checksums().items() if value != self.checksums.get(name, value)]
        if changed:
            raise Diverged(
                f"by step {trainer.global_step} the frozen {' and '.join(changed)} had changed; nothing may train "
                "them: look for code that writes to their parameters."
            )

    @torch.no_grad()
    def _checksums(self) -> dict[str, float]:
        """Return for each network the sum of its parameters, weighted by their position."""
        return {
            name: sum(float((i % 97 + 1) * p.double().sum()) for i, p in enumerate(network.parameters()))
            for name, network in self.frozen.items()
        }


class EMA(Callback):
    """Exponential moving average of the trained parameters, used for validation, previews and evaluation.

    Lightning's own callback averages a deep copy of the frozen networks as well.

    Args:
        decay: Decay of the average per optimiser step, after a warmup.
    """

    state_key = "Average"  # the name in checkpoints since the first release

    def __init__(self, decay: float):
        self.decay = decay
        self.average: EMAModel | None = None
        self.step = 0
        self.state: dict[str, Any] = {}

    def on_train_start(self, trainer: Trainer, task: Task) -> None:
        self.average = EMAModel(trainable_parameters(task), decay=self.decay, use_ema_warmup=True, foreach=True)
        if self.state:
            self.average.load_state_dict(self.state)
            self.average.to(task.device)
        self.step = trainer.global_step

    def on_train_batch_end(self, trainer: Trainer, task: Task, *_: Any) -> None:
        if trainer.global_step > self.step:
            self.step = trainer.global_step
            self.average.step(trainable_parameters(task))

    def on_validation_start(self, trainer: Trainer, module: LightningModule) -> None:
        if self.average is not None:
            self.average.store(trainable_parameters(module))
            self.average.copy_to(trainable_parameters(module))

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        if self.average is not None:
            self.average.restore(trainable_parameters(module))

    on_test_start, on_test_end = on_validation_start, on_validation_end

    def state_dict(self) -> dict[str, Any]:
        """Return the averaged parameters."""
        return self.average.state_dict() if self.average else self.state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Keep a checkpoint's state until training starts."""
        self.state = state


class ThroughputMonitor(Callback):
    """Images per second and peak memory, logged with the loss.

    Args:
        every: Optimiser steps between two measurements.

    Attributes:
        images_per_s: Last measurement; None before the first.
    """

    def __init__(self, every: int):
        self.every = every
        self.images, self.start = 0, None
        self.images_per_s: float | None = None

    def on_train_batch_end(self, trainer: Trainer, task: Task, outputs: Any, batch: Batch, batch_idx: int) -> None:
        self.images += len(batch.id) * trainer.world_size
        if trainer.global_step % self.every or (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        now = time.perf_counter()
        if self.start is not None:
            self.images_per_s = self.images / (now - self.start)
            task.log("train/images_per_s", self.images_per_s)
        if task.device.type == "cuda":
            task.log("train/peak_gib", torch.cuda.max_memory_allocated(task.device) / 2**30)
        self.images, self.start = 0, now

    def on_validation_start(self, trainer: Trainer, task: Task) -> None:
        self.images, self.start = 0, None  # the time of validation is no training time


class OptimizationMonitor(Callback):
    """Learning rate and gradient norm before clipping, logged with the loss.

    Args:
        every: Optimiser steps between two measurements.
    """

    def __init__(self, every: int):
        self.every = every

    def on_before_optimizer_step(self, trainer: Trainer, task: Task, optimizer: Optimizer) -> None:
        if (trainer.global_step + 1) % self.every:
            return
        gradients = [p.grad for p in trainable_parameters(task) if p.grad is not None]
        task.log("train/lr", optimizer.param_groups[0]["lr"])
        task.log("train/grad_norm", nn.utils.get_total_norm(gradients))


class SampleGrid(Callback):
    """Preview of fixed validation images with fixed seeds, written to grid.png whenever validation ends.

    Args:
        directory: Run directory.
        batch: Fixed validation images.
        sampling: The config's `sampling`; `images` is the number of samples per image.
        seed: Seed of the samples.
        log_preview: Function of (columns, captions, step) that sends the pictures to a dashboard.
    """

    def __init__(
        self,
        directory: Path,
        batch: Batch,
        sampling: dict[str, Any],
        seed: int,
        log_preview: Callable | None = None,
    ):
        self.directory, self.batch, self.seed, self.log_preview = directory, batch, seed, log_preview
        self.sampling = dict(sampling)
        self.num_samples = self.sampling.pop("images")
        self.step = -1  # of the last preview

    # In the epoch's own end, so that it can log, and before EMA restores the raw weights.
    def on_validation_epoch_end(self, trainer: Trainer, task: Task) -> None:
        self.step = trainer.global_step
        if not trainer.is_global_zero:
            return
        batch = task.transfer_batch_to_device(self.batch, task.device, 0)
        with torch.no_grad(), trainer.precision_plugin.forward_context():
            preview = task.preview(batch, self.num_samples, self.seed, **self.sampling)
        if preview is None:
            return
        for name, value in preview.scalars.items():
            task.log(name, value, rank_zero_only=True)
        with atomic_path(self.directory / "grid.png") as draft:
            grid = make_grid(preview.columns, preview.captions, task.legend, batch.mask)
            save_grid(grid, preview.captions, draft, list(preview.columns))
        if self.log_preview is not None:
            self.log_preview(preview.columns, preview.captions, logged_step(trainer))
