"""What a run has come to, as hashes: of weights, optimiser, average, history, and of what its ranks have seen."""

import json
import os
import signal
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from lumen.core.hashing import hash_tree as digest
from lumen.core.interfaces import Batch
from lumen.training import checkpoint_io as checkpoints

SPEEDS = {"train/images_per_s", "train/peak_gib"}  # all of the history but these


class Witness(Callback):
    """Writes down what this rank sees in every batch, and kills the first rank where it is asked to.

    Args:
        kill: "step:3", while the fourth step is taken; "validation:4", when that after four steps begins; "" never.
    """

    def __init__(self, place: Path, kill: str):
        self.place, self.kill = place, kill

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Batch, index: int
    ) -> None:
        look = digest([batch.image, batch.moments, batch.layout, batch.caption])
        seen = {"batch": index, "samples": batch.id, "looks": look, "losses": float(outputs["loss"]).hex()}
        with open(self.place / f"seen-by-{trainer.global_rank}.jsonl", "a") as file:
            file.write(json.dumps(seen) + "\n")

    def on_before_optimizer_step(self, trainer: Trainer, *_: Any) -> None:
        self._now(f"step:{trainer.global_step}", trainer)

    def on_validation_start(self, trainer: Trainer, *_: Any) -> None:
        self._now(f"validation:{trainer.global_step}", trainer)

    def _now(self, moment: str, trainer: Trainer) -> None:
        if moment == self.kill and trainer.is_global_zero:
            os.kill(os.getpid(), signal.SIGKILL)


def evidence(place: Path) -> dict[str, str]:
    """Hashes of all that a finished run has come to."""
    checkpoint = checkpoints.read(checkpoints.found(place / "checkpoints")[0])
    average = checkpoint["callbacks"].get("Average")
    lines = [json.loads(line) for line in (place / "metrics.jsonl").read_text().splitlines()]
    parts = {
        "weights": checkpoint["state_dict"],
        "optimizer": [checkpoint["optimizer_states"], checkpoint["lr_schedulers"]],
        **({"average": average} if average else {}),
        "history": [{key: value for key, value in line.items() if key not in SPEEDS} for line in lines],
        "figures": json.loads((place / "metrics.json").read_text()),
    }
    return {name: digest(part) for name, part in parts.items()} | _seen(place)


def _seen(place: Path) -> dict[str, str]:
    """What the ranks saw: a batch that was seen twice, before the run was killed and after, must have been the same."""
    found: dict[str, dict[tuple[str, int], list]] = {"samples": {}, "looks": {}, "losses": {}}
    for path in sorted(place.glob("seen-by-*.jsonl")):
        for line in map(json.loads, path.read_text().splitlines()):
            for name, batches in found.items():
                values = batches.setdefault((path.stem, line["batch"]), [])
                if line[name] not in values:
                    values.append(line[name])
    return {name: digest(sorted(batches.items())) for name, batches in found.items()}
