"""Callbacks that write checkpoints: every few steps, at the end, and when a signal asks the run to stop."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, Trainer

from lumen.core.errors import BadCheckpoint
from lumen.core.files import write_json
from lumen.core.interfaces import Task
from lumen.core.signals import SignalHandler, SignalInterrupt
from lumen.training import checkpoint_io
from lumen.training.lightning_internals import (
    log_step_metrics,
    rescale_progress,
    run_validation,
    validation_is_due,
)

SYNC_EVERY_N_STEPS = 5  # steps between two exchanges about signals; each waits for the slowest rank


class CheckpointCallback(Callback):
    """Checkpoints every few optimiser steps and at the end; the newest stay, and the best if asked.

    Where validation is due after the same step, the checkpoint comes first: a run that is killed while it validates
    loses nothing, and validates when it resumes. The metrics of a step are logged before its checkpoint is written,
    so that the history is complete too.

    Args:
        directory: Of the checkpoints.
        every: Optimiser steps between two checkpoints.
        keep: Newest checkpoints that stay.
        best: Validation metric whose lowest checkpoint stays too.
        facts: Further content of each checkpoint's JSON record.
        is_validated: Whether the validation after a step was logged.
        elastic: Whether the run may resume with its steps split otherwise.
    """

    def __init__(
        self,
        directory: Path,
        every: int,
        keep: int,
        best: str | None = None,
        facts: dict[str, Any] | None = None,
        is_validated: Callable[[int], bool] = lambda step: False,
        elastic: bool = False,
    ):
        self.directory, self.every, self.keep, self.best = directory, every, keep, best
        self.facts, self.is_validated, self.elastic = facts, is_validated, elastic
        self.last_step = -1  # of the newest checkpoint

    def on_load_checkpoint(self, trainer: Trainer, task: Task, checkpoint: dict[str, Any]) -> None:
        if self.elastic:
            rescale_progress(checkpoint, trainer.accumulate_grad_batches)

    def on_train_start(self, trainer: Trainer, task: Task) -> None:
        self.last_step = trainer.global_step
        if self.last_step != (first := trainer.strategy.broadcast(self.last_step)):
            raise BadCheckpoint(
                f"in {self.directory} this process found step {self.last_step}, and the first one step {first}; all "
                "nodes must see the same runs= folder: repeat the command once they do."
            )
        if trainer.is_global_zero:
            for draft in self.directory.glob(".*.part"):  # of killed saves; the directory belongs to this run alone
                draft.unlink(missing_ok=True)
        due = self.last_step and validation_is_due(trainer)
        if due and not trainer.strategy.broadcast(self.is_validated(self.last_step)):
            run_validation(trainer)

    def on_train_batch_end(self, trainer: Trainer, task: Task, *_: Any) -> None:
        if trainer.global_step % self.every == 0 or trainer.global_step == trainer.max_steps:
            self.save(trainer)

    def on_fit_end(self, trainer: Trainer, task: Task) -> None:
        if trainer.max_steps == 0:  # what was learnt is learnt without steps
            self.save(trainer)

    def on_validation_end(self, trainer: Trainer, task: Task) -> None:
        fitting = trainer.state.fn == "fit" and self.last_step == trainer.global_step
        if fitting and self.best and trainer.is_global_zero:
            path = self._path(self.last_step)
            value = {self.best: float(trainer.callback_metrics[self.best])}
            write_json(checkpoint_io.metadata_path(path), checkpoint_io.read_metadata(path) | value)

    def save(self, trainer: Trainer) -> None:
        """Write a checkpoint of the last step, unless there is one; all ranks call this."""
        if trainer.global_step == self.last_step:
            return
        if trainer.global_step > 0:
            log_step_metrics(trainer)  # Lightning would do it just after this
        self.last_step = trainer.global_step
        path = self._path(self.last_step)
        trainer.save_checkpoint(path, weights_only=False, storage_options=self.facts)  # with optimiser and loops
        if not trainer.is_global_zero:
            return
        try:
            checkpoint_io.verify(path)
        except BadCheckpoint as error:
            path.unlink(missing_ok=True)
            print(f"{error} It has been removed, and the older ones are kept.", flush=True)
        else:
            checkpoint_io.prune(self.directory, self.keep, self.best)

    def _path(self, step: int) -> Path:
        return self.directory / f"step{step:08d}.ckpt"


class PreemptionCallback(Callback):
    """Once any rank has received a signal, all ranks write one checkpoint between two steps, and end.

    Args:
        handler: Signals that this process has received.
        checkpoints: Callback that writes the checkpoint.
    """

    def __init__(self, handler: SignalHandler, checkpoints: CheckpointCallback):
        self.handler, self.checkpoints = handler, checkpoints
        self.step = -1

    def on_train_start(self, trainer: Trainer, task: Task) -> None:
        self.handler.deferring, self.step = True, trainer.global_step

    def on_train_batch_end(self, trainer: Trainer, task: Task, *_: Any) -> None:
        if trainer.global_step == self.step:  # within a step: gradients that are being summed are not saved
            return
        self.step = trainer.global_step
        in_sync = self.step % SYNC_EVERY_N_STEPS == 0 or self.step == self.checkpoints.last_step
        if trainer.world_size == 1 or in_sync:
            self._stop_if_asked(trainer)

    def on_validation_start(self, trainer: Trainer, task: Task) -> None:
        # It takes minutes; once the step is saved, nothing is lost by ending at once.
        saved = self.checkpoints.last_step == trainer.global_step
        self.handler.deferring = trainer.state.fn == "fit" and not saved

    def on_validation_end(self, trainer: Trainer, task: Task) -> None:
        self.handler.deferring = trainer.state.fn == "fit"

    def on_train_end(self, trainer: Trainer, task: Task) -> None:
        self._stop_if_asked(trainer)
        self.handler.deferring = False  # evaluation follows, and resumes by itself

    def _stop_if_asked(self, trainer: Trainer) -> None:
        if trainer.strategy.reduce_boolean_decision(self.handler.received is not None, all=False):
            self.checkpoints.save(trainer)
            signal = self.handler.received or "a signal to another process"
            raise SignalInterrupt(
                f"stopped by {signal} at step {self.step}, which is saved; the same command resumes there."
            )
