"""Checkpoint files: their metadata, verification and pruning; no save leaves fewer intact ones than there were."""

from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer

from lumen.core.errors import BadCheckpoint, Mistake
from lumen.core.interfaces import Optimization, Task
from lumen.training import checkpoint_io
from lumen.training.checkpoint_callbacks import CheckpointCallback


def save(directory: Path, step: int, **facts: float | str) -> Path:
    path = directory / f"step{step:08d}.ckpt"
    content = {"global_step": step, "state_dict": {"weight": torch.full((50,), float(step))}}
    checkpoint_io.AtomicCheckpointIO().save_checkpoint(content, path, facts)
    return path


def flip_bit(path: Path) -> None:
    """Flip one bit of a weight: the file keeps its length and still loads."""
    content = bytearray(path.read_bytes())
    weights = torch.tensor([float(checkpoint_io.step_of(path))] * 2)
    content[content.index(weights.numpy().tobytes())] ^= 1
    path.write_bytes(content)


def test_checkpoint_metadata_holds_the_hash_of_what_was_written(tmp_path):
    path = save(tmp_path, 3, config="abc")
    metadata = checkpoint_io.read_metadata(path)
    assert metadata["step"] == 3 and metadata["config"] == "abc" and len(metadata["sha256"]) == 64
    checkpoint_io.verify(path)
    assert checkpoint_io.read(path)["state_dict"]["weight"].tolist() == [3.0] * 50
    assert {p.suffix for p in tmp_path.iterdir()} == {".ckpt", ".json"}


def test_checkpoint_that_memory_is_too_small_for_is_not_called_damaged(tmp_path, monkeypatch):
    path = save(tmp_path, 3)

    def refuse(*_, **__):
        raise RuntimeError("unable to mmap 9 bytes from file: Cannot allocate memory (12)")

    monkeypatch.setattr(torch, "load", refuse)
    with pytest.raises(Mistake, match="memory ran short") as caught:
        checkpoint_io.read(path)
    assert not isinstance(caught.value, BadCheckpoint)


@pytest.mark.parametrize("number", range(5))
def test_checkpoint_that_ctrl_c_interrupts_ends_as_interrupted(number, tmp_path, monkeypatch):
    path, writes, write = save(tmp_path, 3), [], checkpoint_io._HashingFile.write

    def write_or_interrupt(file, data):
        writes.append(len(data))
        if len(writes) == number + 1:
            raise KeyboardInterrupt
        return write(file, data)

    monkeypatch.setattr(checkpoint_io._HashingFile, "write", write_or_interrupt)
    with pytest.raises(KeyboardInterrupt):
        save(tmp_path, 4)
    assert {p.name for p in tmp_path.iterdir()} == {path.name, checkpoint_io.metadata_path(path).name}


def test_checkpoint_with_a_flipped_bit_is_skipped(tmp_path, capsys):
    older, newer = save(tmp_path, 3), save(tmp_path, 4)
    assert checkpoint_io.newest(tmp_path) == newer
    flip_bit(newer)
    checkpoint_io.read(newer)  # it loads all the same
    assert checkpoint_io.newest(tmp_path) == older
    message = capsys.readouterr().out
    assert str(newer) in message and "sha256" in message


def test_checkpoint_of_another_config_is_skipped_unless_it_has_no_metadata(tmp_path):
    own, other = save(tmp_path, 3, config="own"), save(tmp_path, 4, config="other")
    assert checkpoint_io.newest(tmp_path, "own") == own and checkpoint_io.newest(tmp_path) == other
    checkpoint_io.metadata_path(other).unlink()
    assert checkpoint_io.newest(tmp_path, "own") == other


@pytest.mark.parametrize("content", ['{"sha256": "', "", "{", "[]", "null", "[" * 100_000, "{}", '{"sha256": 3}'])
def test_checkpoint_with_unreadable_metadata_is_accepted(content, tmp_path, capsys):
    path = save(tmp_path, 1, **{"val/loss": 0.5})
    checkpoint_io.metadata_path(path).write_text(content)
    assert checkpoint_io.read_metadata(path) == {} and checkpoint_io.newest(tmp_path) == path
    assert "step00000001.json beside it is damaged" in capsys.readouterr().out
    checkpoint_io.prune(tmp_path, 1, "val/loss")
    assert checkpoint_io.list_checkpoints(tmp_path) == [path]


def test_checkpoint_prune_keeps_the_newest_and_the_best(tmp_path):
    def steps() -> list[int]:
        return [checkpoint_io.step_of(path) for path in checkpoint_io.list_checkpoints(tmp_path)]

    for step, loss in ((1, 0.5), (2, 0.2), (3, 0.4), (4, 0.3)):
        save(tmp_path, step, **{"val/loss": loss})
    save(tmp_path, 5)  # not validated
    checkpoint_io.prune(tmp_path, 2, "val/loss")
    assert steps() == [5, 4, 2]
    assert checkpoint_io.step_of(checkpoint_io.best(tmp_path, "val/loss")) == 2
    assert len(list(tmp_path.iterdir())) == 6
    checkpoint_io.prune(tmp_path, 1)
    assert steps() == [5]
    with pytest.raises(BadCheckpoint, match="val/loss"):
        checkpoint_io.best(tmp_path, "val/loss")


@pytest.mark.parametrize("damaged", [True, False])
def test_checkpoint_callback_removes_older_ones_only_after_an_intact_save(damaged, tmp_path, capsys):
    def save_checkpoint(path, **_):
        save(tmp_path, 2)
        if damaged:
            flip_bit(path)

    older = save(tmp_path, 1)
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    trainer.fit_loop.epoch_loop.automatic_optimization.optim_progress.optimizer.step.total.completed = 2
    trainer.save_checkpoint, trainer._logger_connector.update_train_step_metrics = save_checkpoint, lambda: None
    CheckpointCallback(tmp_path, every=2, keep=1).on_train_batch_end(trainer, Task(Optimization()))
    newer = tmp_path / "step00000002.ckpt"
    assert checkpoint_io.list_checkpoints(tmp_path) == [older if damaged else newer]
    assert (str(newer) in capsys.readouterr().out) == damaged
