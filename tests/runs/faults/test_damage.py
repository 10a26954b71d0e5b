"""Damaged checkpoints, a damaged batch and a killed rank: a clear error, or a resume without loss."""

import json
import math
import signal
from pathlib import Path

import pytest
from lightning.pytorch import Callback

from lumen.training.callbacks import DivergenceGuard
from lumen.training.checkpoint_io import list_checkpoints, step_of, verify

pytestmark = pytest.mark.long


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [truncate, flip_bit, empty], ids=lambda damage: damage.__name__)
def test_damaged_checkpoint_is_skipped(damage, start_run, before_step, kill_self, run_dir, hash_run, reference_hashes):
    start_run(callbacks=[before_step(5, kill_self)]).wait()
    newest, older = list_checkpoints(run_dir() / "checkpoints")
    damage(newest)
    run = start_run()
    assert run.wait() == [0]
    assert str(newest.relative_to(Path.cwd())) in run.output()
    assert "resumes at step 2:" in run.output() and step_of(older) == 2
    assert hash_run() == reference_hashes()


def test_damaged_checkpoints_without_an_intact_one_end_the_run(start_run, before_step, kill_self, run_dir):
    start_run(callbacks=[before_step(5, kill_self)]).wait()
    for path in list_checkpoints(run_dir() / "checkpoints"):
        truncate(path)
    run = start_run()
    assert run.wait() == [2]
    assert "none of the 2 checkpoints" in run.output() and "remove them" in run.output()


class DamagedBatch(Callback):
    """Batch of the fifth step without a finite number, whether its tensors come from files or from the cache."""

    def on_train_batch_start(self, trainer, task, batch, batch_idx) -> None:
        if batch_idx == 4:
            for tensor in ([batch.image] if batch.image is not None else []) + list(batch.cached.values()):
                tensor.fill_(math.nan)


@pytest.mark.parametrize("every", [1, 100])
def test_damaged_batch_ends_the_run_at_its_last_good_checkpoint(every, start_run, run_dir, hash_run, reference_hashes):
    """With the loss checked at every step, or seldom, so that the check before a save finds it."""

    def check_loss_seldom(rank: int) -> None:
        DivergenceGuard.on_train_batch_end = lambda *_: None

    run = start_run(callbacks=[DamagedBatch()], prepare=check_loss_seldom if every > 1 else lambda rank: None)
    assert run.wait() == [2]
    assert "loss is no longer a finite number" in run.output()
    paths = list_checkpoints(run_dir() / "checkpoints")
    assert [step_of(path) for path in paths] == [4, 2]
    verify(paths[0])
    for path in Path("records").iterdir():  # the damaged batch is none of the run's, nor is its loss
        lines = path.read_text().splitlines(keepends=True)
        path.write_text("".join(line for line in lines if json.loads(line)["batch"] < 4))
    assert start_run().wait() == [0]
    assert hash_run() == reference_hashes()


@pytest.mark.parametrize("victim", [0, 1])
def test_killed_rank_ends_the_other_one(victim, start_run, before_step, kill_self, run_dir, hash_run, reference_hashes):
    run = start_run(world_size=2, callbacks=[before_step(5, kill_self, victim)])
    codes = run.wait(60)
    assert codes[victim] == -signal.SIGKILL and codes[1 - victim] > 0
    assert [step_of(path) for path in list_checkpoints(run_dir() / "checkpoints")] == [4, 2]
    assert start_run(world_size=2).wait() == [0, 0]
    assert hash_run() == reference_hashes(2)
