"""Display of a run's phases: what each line says, and how seldom the loss is read."""

import re
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer

from lumen.core.interfaces import Batch
from lumen.training.callbacks import ThroughputMonitor
from lumen.training.progress import ProgressDisplay

TASK = Mock(spec=LightningModule, device=torch.device("cpu"), reference_rows={"text": "caption alone"})


class Loss(float):
    """Loss that counts how often it is read, each of which would wait for a GPU."""

    readings = 0

    def __float__(self) -> float:
        Loss.readings += 1
        return super().__float__()


@pytest.fixture
def trainer():
    """What the display needs of a trainer: 60 steps of two micro-batches, and six images of two data sets."""
    sources = [SimpleNamespace(eval_records=lambda: [None] * 3)] * 2
    return Mock(
        spec=Trainer,
        global_step=0,
        max_steps=60,
        accumulate_grad_batches=2,
        world_size=1,
        is_global_zero=True,
        num_val_batches=[3],
        callback_metrics={"val/loss": torch.tensor(0.25)},
        state=SimpleNamespace(fn="fit"),
        datamodule=SimpleNamespace(eval_sources=sources),
    )


def run_phases(display: ProgressDisplay, trainer: Trainer) -> None:
    batch = Batch(torch.zeros(4, 3, 8, 8), [""] * 4, ["a", "b", "c", "d"])
    display.on_train_start(trainer, TASK)
    for micro_batch in range(1, 2 * trainer.max_steps + 1):
        trainer.global_step = micro_batch // 2
        display.on_train_batch_end(trainer, TASK, {"loss": Loss(0.125)}, batch, micro_batch - 1)
        if micro_batch == 40:
            display.on_validation_start(trainer, TASK)
            for _ in range(3):
                display.on_validation_batch_end(trainer)
            display.on_validation_epoch_end(trainer, TASK)
            display.on_validation_end(trainer, TASK)
    display.on_train_end(trainer, TASK)
    for row in ("test", "text"):
        loop = Mock(spec=LightningModule, row=row, task=TASK)
        display.on_test_start(trainer, loop)
        for _ in range(2):
            display.on_test_batch_end(trainer, loop, None, batch, 0)
        display.on_test_end(trainer, loop)
    display.teardown(trainer, TASK, "test")


def test_progress_of_a_run_names_its_phases(trainer, capsys):
    throughput = ThroughputMonitor(2)
    throughput.images_per_s = 43.21
    Loss.readings = 0
    run_phases(ProgressDisplay(2, throughput, ["test", "text"]), trainer)
    lines = [re.sub(r"[\d.]+ (s|GiB)", r"# \1", line) for line in capsys.readouterr().out.splitlines()]
    facts = "loss 0.2500, 43.2 images/s, # GiB"
    assert lines == [
        f"training 20/60, {facts}, # s left",
        "step 20: val/loss 0.2500",
        f"training 40/60, {facts}, # s left",
        f"training 60/60, {facts}, # s",
        "evaluating 1 of 2: samples, 6/6 images, # s",
        "evaluating 2 of 2: caption alone, 6/6 images, # s",
    ]
    assert Loss.readings == 30  # one of two steps


def test_progress_is_shown_by_the_first_rank_alone(trainer, capsys):
    trainer.is_global_zero = False
    Loss.readings = 0
    run_phases(ProgressDisplay(2, ThroughputMonitor(2), ["test", "text"]), trainer)
    assert capsys.readouterr().out == "" and Loss.readings == 0


def test_progress_of_a_run_that_fails_is_taken_away(trainer, capsys):
    display = ProgressDisplay(2, ThroughputMonitor(2), ["test"])
    display.on_exception(trainer, TASK, KeyboardInterrupt())  # before there is any
    display.on_train_start(trainer, TASK)
    display.on_validation_start(trainer, TASK)
    display.on_exception(trainer, TASK, KeyboardInterrupt())
    assert capsys.readouterr().out == "" and not display.training.is_shown and not display.inner.is_shown
