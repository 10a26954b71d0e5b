"""Private parts of Lightning that exact resume depends on, gathered in one file. Checked with Lightning 2.6.6."""

from collections.abc import Callable
from typing import Any

from lightning.pytorch import Trainer


def set_global_step(trainer: Trainer, step: int) -> None:
    """Tell a trainer the step of a run that it did not train itself, so that metrics are logged there."""
    trainer.fit_loop.epoch_loop._batches_that_stepped = step


def logged_step(trainer: Trainer) -> int:
    """Return the step at which metrics are logged."""
    return trainer.fit_loop.epoch_loop._batches_that_stepped


def disable_signal_handling(trainer: Trainer) -> None:
    """Turn off Lightning's signal handlers, because `lumen.core.signals` handles signals between two steps.

    Lightning's handler talks to other ranks from within, while they wait for one another's gradients. Its broadcast
    would make every rank wait for its GPU at each step.
    """
    trainer._signal_connector.register_signal_handlers = lambda: None
    trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None


def disable_gradient_sync(trainer: Trainer) -> None:
    """Leave a task without trainable parameters unwrapped, because DistributedDataParallel refuses it."""
    trainer.strategy.configure_ddp = lambda: None


def kill_function(trainer: Trainer) -> Callable[[int], None] | None:
    """Return the function that sends a signal to the ranks that this process has launched.

    They are forgotten then, also where Lightning itself calls it, as after Ctrl-C. Otherwise its thread that observes
    them would take their end for a failure, and kill this process.
    """
    launcher = trainer.strategy.launcher
    if not hasattr(launcher, "kill"):
        return None
    kill = launcher.kill

    def kill_and_forget(number: int) -> None:
        kill(number)
        launcher.procs.clear()

    launcher.kill = kill_and_forget
    return kill_and_forget


def log_step_metrics(trainer: Trainer) -> None:
    """Log the metrics of the step that has just ended, before a checkpoint of it is written."""
    trainer._logger_connector.update_train_step_metrics()


def validation_is_due(trainer: Trainer) -> bool:
    """Return whether validation follows the step that a checkpoint was written at."""
    return trainer.fit_loop.epoch_loop._should_check_val_fx(trainer.fit_loop._data_fetcher)


def run_validation(trainer: Trainer) -> None:
    """Validate as Lightning does after a step; a resumed fit takes that validation for done."""
    loop = trainer.fit_loop.epoch_loop.val_loop
    loop.restarting = False
    trainer.validating = True
    loop.run()
    trainer.training = True


def rescale_progress(checkpoint: dict[str, Any], accumulate: int) -> None:
    """Count the micro-batches of a checkpoint as if its steps had had this many each, for an elastic resume.

    The order of images follows from how many were read, so it continues where it stopped. The loader's own record of
    batch size and ranks is dropped, because it would refuse others.
    """
    loop = checkpoint["loops"]["fit_loop"]
    for counts in (loop["epoch_loop.batch_progress"][part] for part in ("total", "current")):
        change = checkpoint["global_step"] * accumulate - counts["processed"]
        counts.update({name: count + change for name, count in counts.items()})
    for loader in loop["state_dict"].get("combined_loader", []):
        loader.pop("batch"), loader.pop("world")
