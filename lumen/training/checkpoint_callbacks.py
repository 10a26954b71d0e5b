"""When a run is saved: every few steps, at its end, and when it is told to stop."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from lumen.core.errors import BadCheckpoint
from lumen.core.files import write_json
from lumen.core.signals import Ear, Stopped
from lumen.training import checkpoint_io as checkpoints

AGREE = 5  # steps between two questions to all ranks whether one was told to stop: each waits for the slowest


class Checkpoints(Callback):
    """Saves every few optimiser steps and at the end, and keeps the newest, and the best where asked to.

    Where validation is due after the same step, the save comes first, so that a run that is killed while validating
    loses nothing: when it goes on, it validates before it trains. So that its history is whole too, the figures of a
    step are logged before the step is saved.

    Args:
        best: a validation figure; the checkpoint with the lowest is kept too.
        facts: what every checkpoint's record says besides.
        validated: whether the validation after a step has been logged.
        elastic: whether a run may go on with its images shared out otherwise.
    """

    def __init__(
        self,
        folder: Path,
        every: int,
        keep: int,
        best: str | None = None,
        facts: dict[str, Any] | None = None,
        validated: Callable[[int], bool] = lambda step: False,
        elastic: bool = False,
    ):
        self.folder, self.every, self.keep, self.best = folder, every, keep, best
        self.facts, self.validated, self.elastic = facts, validated, elastic
        self.saved = -1

    def on_load_checkpoint(self, trainer: Trainer, module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if self.elastic:
            _share_anew(checkpoint, trainer.accumulate_grad_batches)

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        self.saved = trainer.global_step
        if self.saved != (first := trainer.strategy.broadcast(self.saved)):
            raise BadCheckpoint(
                f"in {self.folder} this process found step {self.saved}, and the first one step {first}; all nodes "
                "must see the same runs= folder: repeat the command once they do."
            )
        if trainer.is_global_zero:
            for draft in self.folder.glob(".*.part"):  # of saves that were killed; the folder is this run's alone
                draft.unlink(missing_ok=True)
        if self.saved and _validates_now(trainer) and not trainer.strategy.broadcast(self.validated(self.saved)):
            _validate(trainer)

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *_: Any) -> None:
        if trainer.global_step % self.every == 0 or trainer.global_step == trainer.max_steps:
            self.save(trainer)

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        if trainer.state.fn == "fit" and self.best and self.saved == trainer.global_step and trainer.is_global_zero:
            path = self._path(self.saved)
            figure = {self.best: float(trainer.callback_metrics[self.best])}
            write_json(checkpoints.record_of(path), checkpoints.record(path) | figure)

    def save(self, trainer: Trainer) -> None:
        """Writes a checkpoint of the last step on all ranks' behalf, unless there is one; called by all of them."""
        if trainer.global_step == self.saved:
            return
        trainer._logger_connector.update_train_step_metrics()  # Lightning would do it just after this
        self.saved = trainer.global_step
        path = self._path(self.saved)
        trainer.save_checkpoint(path, weights_only=False, storage_options=self.facts)  # optimiser and loops too
        if trainer.is_global_zero:
            try:
                checkpoints.verify(path)
            except BadCheckpoint as error:
                path.unlink(missing_ok=True)
                print(f"{error} It has been removed, and the older ones are kept.", flush=True)
            else:
                checkpoints.prune(self.folder, self.keep, self.best)

    def _path(self, step: int) -> Path:
        return self.folder / f"step{step:08d}.ckpt"


class Preemption(Callback):
    """Once any rank has been told to stop, all of them save one checkpoint between two steps and leave."""

    def __init__(self, ear: Ear, saver: Checkpoints):
        self.ear, self.saver = ear, saver
        self.step = -1

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        self.ear.patient, self.step = True, trainer.global_step

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *_: Any) -> None:
        if trainer.global_step == self.step:  # in the middle of one: gradients that are being summed are not saved
            return
        self.step = trainer.global_step
        if trainer.world_size == 1 or self.step % AGREE == 0 or self.step == self.saver.saved:
            self._leave_if_told(trainer)

    def on_validation_start(self, trainer: Trainer, module: LightningModule) -> None:
        # It takes minutes; with the step saved nothing is lost by leaving at once.
        self.ear.patient = trainer.state.fn == "fit" and self.saver.saved != trainer.global_step

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        self.ear.patient = trainer.state.fn == "fit"

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        self._leave_if_told(trainer)
        self.ear.patient = False  # what comes now, measuring, goes on where it was without being saved

    def _leave_if_told(self, trainer: Trainer) -> None:
        if trainer.strategy.reduce_boolean_decision(self.ear.heard is not None, all=False):
            self.saver.save(trainer)
            why = self.ear.heard or "a signal to another process"
            raise Stopped(f"stopped by {why} at step {self.step}, which is saved; the same command goes on from there.")


def _validates_now(trainer: Trainer) -> bool:
    return trainer.fit_loop.epoch_loop._should_check_val_fx(trainer.fit_loop._data_fetcher)


def _validate(trainer: Trainer) -> None:
    """What Lightning does after a step where validation is due, and takes for done when it goes on from there."""
    loop = trainer.fit_loop.epoch_loop.val_loop
    loop.restarting = False
    trainer.validating = True
    loop.run()
    trainer.training = True


def _share_anew(checkpoint: dict[str, Any], accumulate: int) -> None:
    """Counts the micro-batches of a checkpoint as if its steps had been taken with this many each.

    The order of the images follows from how many have been seen; so it goes on, for steps of as many images. What a
    loader says of its share is left out, for it would refuse another.
    """
    loop = checkpoint["loops"]["fit_loop"]
    for counts in (loop["epoch_loop.batch_progress"][part] for part in ("total", "current")):
        change = checkpoint["global_step"] * accumulate - counts["processed"]
        counts.update({name: count + change for name, count in counts.items()})
    for loader in loop["state_dict"].get("combined_loader", []):
        loader.pop("batch"), loader.pop("world")
