"""Lightning callback that shows the phases of a run: training, validation, previews, evaluation."""

import resource
import sys
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from lumen.core.console import announce
from lumen.core.interfaces import Batch
from lumen.core.progress import Phase
from lumen.training.callbacks import ThroughputMonitor

UPDATES_PER_LINE = 10  # where there is no terminal
RESIDENT_UNIT = 1 if sys.platform == "darwin" else 1024  # bytes, of getrusage(2)


class ProgressDisplay(Callback):
    """Display of the phase that a run is in. Lightning's own bars name none, and are redrawn also in files.

    Args:
        every: Optimiser steps between two readings of the loss; each waits for the GPU.
        throughput: Monitor that measures images per second.
        rows: Names of the evaluated rows: "test" and the reference rows.
    """

    def __init__(self, every: int, throughput: ThroughputMonitor, rows: list[str]):
        self.every, self.throughput, self.rows = every, throughput, rows
        self.training: Phase | None = None
        self.inner: Phase | None = None  # validation or evaluation

    # ---- training

    def on_train_start(self, trainer: Trainer, task: LightningModule) -> None:
        """Show the whole run, of which earlier commands have trained a part."""
        self.training = Phase(
            "training",
            trainer.max_steps,
            done=trainer.global_step,
            every=self.every * UPDATES_PER_LINE,
            is_shown=trainer.is_global_zero,
        )

    def on_train_batch_end(
        self, trainer: Trainer, task: LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        step, facts = trainer.global_step, self.training.facts
        if step == self.training.done:  # within a step
            return
        if trainer.is_global_zero and (step % self.every == 0 or step == trainer.max_steps):
            loss = float(outputs["loss"]) * trainer.accumulate_grad_batches
            speed = self.throughput.images_per_s
            facts = (f"loss {loss:.4f}", *([f"{speed:.3g} images/s"] if speed else []), _peak_memory(task.device))
        self.training.update(step, *facts)

    def on_train_end(self, trainer: Trainer, task: LightningModule) -> None:
        self.training.close()

    # ---- validation

    def on_validation_start(self, trainer: Trainer, task: LightningModule) -> None:
        count = sum(trainer.num_val_batches)
        self.inner = Phase("validating", count, "batches", every=count, is_shown=trainer.is_global_zero)

    def on_validation_batch_end(self, trainer: Trainer, *_: Any) -> None:
        self.inner.advance()

    def on_validation_epoch_end(self, trainer: Trainer, task: LightningModule) -> None:
        self.inner.rename("generating previews")

    def on_validation_end(self, trainer: Trainer, task: LightningModule) -> None:
        self.inner.close()
        if trainer.is_global_zero and "val/loss" in trainer.callback_metrics:
            step = f"step {trainer.global_step:,}: " * (trainer.state.fn == "fit")
            announce(f"{step}val/loss {trainer.callback_metrics['val/loss']:.4f}")

    # ---- evaluation

    def on_test_start(self, trainer: Trainer, loop: LightningModule) -> None:
        """Show which outputs are scored: the task's own, or those of a reference row."""
        label = loop.task.reference_rows.get(loop.row, "samples")
        title = f"evaluating {self.rows.index(loop.row) + 1} of {len(self.rows)}: {label},"
        images = sum(len(source.eval_records()) for source in trainer.datamodule.eval_sources)
        self.inner = Phase(title, images, "images", is_shown=trainer.is_global_zero)

    def on_test_batch_end(self, trainer: Trainer, loop: LightningModule, outputs: Any, batch: Batch, *_: Any) -> None:
        self.inner.advance(len(batch.id) * trainer.world_size)

    def on_test_end(self, trainer: Trainer, loop: LightningModule) -> None:
        self.inner.close()

    # ---- end

    def on_exception(self, trainer: Trainer, task: LightningModule, exception: BaseException) -> None:
        """Take the bars away, so that a message begins a line of its own."""
        self.teardown(trainer, task, "")

    def teardown(self, trainer: Trainer, task: LightningModule, stage: str) -> None:
        for phase in (self.inner, self.training):
            if phase is not None:
                phase.close()


def _peak_memory(device: torch.device) -> str:
    """Return the most memory that this process has used, of the GPU if it trains on one."""
    if device.type == "cuda":
        return f"{torch.cuda.max_memory_allocated(device) / 2**30:.3g} GiB"
    return f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * RESIDENT_UNIT / 2**30:.3g} GiB"
