"""Checkpoints as files: what is written is what was meant, and no save leaves fewer good ones than there were."""

import json
from pathlib import Path

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer

from lumen.core.errors import BadCheckpoint
from lumen.training import checkpoint_io as checkpoints
from lumen.training.checkpoint_callbacks import Checkpoints
from lumen.training.checkpoint_io import WholeFiles, best, found, newest, prune, record


def save(folder: Path, step: int, **facts: float | str) -> Path:
    path = folder / f"step{step:08d}.ckpt"
    content = {"global_step": step, "state_dict": {"weight": torch.full((50,), float(step))}}
    WholeFiles().save_checkpoint(content, path, facts)
    return path


def flip(path: Path) -> None:
    """One bit of a weight: the file is as long as before and still loads."""
    content = bytearray(path.read_bytes())
    content[content.index(torch.tensor([float(checkpoints.step_of(path))] * 2).numpy().tobytes())] ^= 1
    path.write_bytes(content)


def test_a_record_says_what_was_written(tmp_path):
    path = save(tmp_path, 3, config="abc")
    assert record(path)["step"] == 3 and record(path)["config"] == "abc" and len(record(path)["sha256"]) == 64
    checkpoints.verify(path)
    assert checkpoints.read(path)["state_dict"]["weight"].tolist() == [3.0] * 50
    assert {p.suffix for p in tmp_path.iterdir()} == {".ckpt", ".json"}


def test_a_bit_that_has_changed_is_noticed_and_an_older_checkpoint_taken(tmp_path, capsys):
    older, newer = save(tmp_path, 3), save(tmp_path, 4)
    assert newest(tmp_path) == newer
    flip(newer)
    checkpoints.read(newer)  # it loads all the same
    assert newest(tmp_path) == older
    assert f"passing over a checkpoint: {newer} cannot be used: it is not what was written" in capsys.readouterr().out


def test_a_checkpoint_of_another_config_is_passed_over_and_one_without_a_record_is_not(tmp_path):
    mine, other = save(tmp_path, 3, config="mine"), save(tmp_path, 4, config="other")
    assert newest(tmp_path, "mine") == mine and newest(tmp_path) == other
    checkpoints.record_of(other).unlink()
    assert newest(tmp_path, "mine") == other


def test_the_newest_stay_and_the_best(tmp_path):
    for step, loss in ((1, 0.5), (2, 0.2), (3, 0.4), (4, 0.3)):
        save(tmp_path, step, **{"val/loss": loss})
    save(tmp_path, 5)  # not validated
    prune(tmp_path, 2, "val/loss")
    assert [checkpoints.step_of(path) for path in found(tmp_path)] == [5, 4, 2]
    assert checkpoints.step_of(best(tmp_path, "val/loss")) == 2
    assert len(list(tmp_path.iterdir())) == 6
    prune(tmp_path, 1)
    assert [checkpoints.step_of(path) for path in found(tmp_path)] == [5]
    with pytest.raises(BadCheckpoint, match="no checkpoint in .* has a val/loss"):
        best(tmp_path, "val/loss")


@pytest.mark.parametrize("harmed", [True, False])
def test_older_checkpoints_go_only_once_the_new_one_is_sound(harmed, tmp_path, capsys):
    def written(path, **_):
        save(tmp_path, 2)
        if harmed:
            flip(path)

    before = save(tmp_path, 1)
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    trainer.fit_loop.epoch_loop.automatic_optimization.optim_progress.optimizer.step.total.completed = 2
    trainer.save_checkpoint, trainer._logger_connector.update_train_step_metrics = written, lambda: None
    Checkpoints(tmp_path, every=2, keep=1).on_train_batch_end(trainer, LightningModule())
    assert found(tmp_path) == [before if harmed else tmp_path / "step00000002.ckpt"]
    assert ("It has been removed" in capsys.readouterr().out) == harmed


def test_a_record_that_cannot_be_read_is_none(tmp_path):
    path = save(tmp_path, 1)
    checkpoints.record_of(path).write_text(json.dumps({"sha256": "0"})[:-3])
    assert record(path) == {} and newest(tmp_path) == path
