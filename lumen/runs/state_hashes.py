"""Hashes of a finished run's state: weights, optimiser, EMA, history, and what its ranks have read."""

import json
import os
import signal
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, Trainer

from lumen.core.interfaces import Batch, Task
from lumen.core.tensor_hashing import hash_tree
from lumen.training import checkpoint_io
from lumen.training.callbacks import EMA

RATE_KEYS = {"train/images_per_s", "train/peak_gib"}  # the part of the history that no two runs share


class StepRecorder(Callback):
    """Record of what this rank reads in every batch; it also kills the first rank when asked to.

    Args:
        directory: Where the records are written.
        kill: "step:3" kills while the fourth step is computed, "validation:4" when the validation after four steps
            begins, "" never.
    """

    def __init__(self, directory: Path, kill: str):
        self.directory, self.kill = directory, kill

    def on_train_batch_end(self, trainer: Trainer, task: Task, outputs: Any, batch: Batch, batch_idx: int) -> None:
        content = hash_tree([batch.image, batch.cached, batch.caption])
        record = {
            "batch": batch_idx,
            "samples": batch.id,
            "views": content,
            "losses": float(outputs["loss"]).hex(),
        }
        with open(self.directory / f"seen-by-{trainer.global_rank}.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def on_before_optimizer_step(self, trainer: Trainer, *_: Any) -> None:
        self._kill_if_due(f"step:{trainer.global_step}", trainer)

    def on_validation_start(self, trainer: Trainer, *_: Any) -> None:
        self._kill_if_due(f"validation:{trainer.global_step}", trainer)

    def _kill_if_due(self, moment: str, trainer: Trainer) -> None:
        if moment == self.kill and trainer.is_global_zero:
            os.kill(os.getpid(), signal.SIGKILL)


def hash_run_state(directory: Path) -> dict[str, str]:
    """Return hashes of everything that a finished run consists of, by part."""
    checkpoint = checkpoint_io.read(checkpoint_io.list_checkpoints(directory / "checkpoints")[0])
    average = checkpoint["callbacks"].get(EMA.state_key)
    history = [json.loads(line) for line in (directory / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    parts = {
        "weights": checkpoint["state_dict"],
        "optimizer": [checkpoint["optimizer_states"], checkpoint["lr_schedulers"]],
        **({"average": average} if average else {}),
        "history": [{key: value for key, value in line.items() if key not in RATE_KEYS} for line in history],
        "metrics": json.loads((directory / "metrics.json").read_text(encoding="utf-8")),
    }
    return {name: hash_tree(part) for name, part in parts.items()} | hash_records(directory)


def hash_records(directory: Path) -> dict[str, str]:
    """Return hashes of what the ranks read. A batch that was read before and after a kill must have been the same."""
    values: dict[str, dict[tuple[str, int], list]] = {"samples": {}, "views": {}, "losses": {}}
    for path in sorted(directory.glob("seen-by-*.jsonl")):
        for record in map(json.loads, path.read_text(encoding="utf-8").splitlines()):
            for name, batches in values.items():
                distinct = batches.setdefault((path.stem, record["batch"]), [])
                if record[name] not in distinct:
                    distinct.append(record[name])
    return {name: hash_tree(sorted(batches.items())) for name, batches in values.items()}
