"""Resumable training of a small network: state file, weights to start from, progress report, time limit."""

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from diffusers.training_utils import EMAModel
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from lumen.core.errors import Diverged, WeightsMissing
from lumen.core.files import atomic_path

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
PROGRESS_INTERVAL_S = 30  # seconds between progress reports
SAVE_INTERVAL_S = 120  # seconds between saved states, lost at most when the power fails
AVERAGE, LOSSES = "average/", "losses"  # names in `weights_file`
RESTART_WARMUP_STEPS = 500  # to the full learning rate after a start from weights, whose optimiser is new


@dataclass
class Progress:
    """Progress of a training: steps, images and seconds of all its runs, and the loss of every step.

    Attributes:
        start_step: Step at which the optimiser was new.
    """

    step: int = 0
    images: int = 0
    seconds: float = 0.0
    start_step: int = 0
    losses: list[float] = field(default_factory=list)

    def state_dict(self) -> dict[str, Any]:
        """Return the part of the state file that `load_state_dict` reads."""
        return asdict(self)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from the progress of a state file."""
        vars(self).update(state)

    def mean_loss(self, count: int) -> float:
        """Return the mean of the last `count` losses."""
        last = self.losses[-count:]
        return sum(last) / len(last)


@dataclass(frozen=True)
class ResumableTraining:
    """Training with AdamW, EMA and a learning rate that falls at the end, which the same command resumes.

    It ends at `steps` or after `minutes` of work, whichever comes first. With more steps or minutes the same command
    continues a finished training.

    Beside the state file lies `weights_file`, which is a fifth as large: weights and their moving average in half
    precision, with step and seed. A training on another machine takes it as `start`.

    Args:
        state_file: File from which the training resumes.
        steps: Optimiser steps.
        batch: Images per step.
        learning_rate: Highest learning rate.
        minutes: Limit of the time spent, over all runs of the command.
        seed: Seed of every random number.
        ema_decay: Decay of the moving average of the weights.
        warmup_steps: Steps to the full learning rate.
        decay_share: Last share of the training, in which the learning rate falls along half a cosine to zero.
        start: `weights_file` of another training of the same network, which this one continues.
        betas: Decays of the averages of AdamW.
    """

    state_file: Path
    steps: int
    batch: int
    learning_rate: float
    minutes: float = math.inf
    seed: int = 0
    ema_decay: float = 0.999
    warmup_steps: int = 200
    decay_share: float = 1.0
    start: Path | None = None
    betas: tuple[float, float] = (0.9, 0.99)

    @property
    def weights_file(self) -> Path:
        """File of the weights and their moving average."""
        return self.state_file.with_suffix(".safetensors")

    def run(self, network: nn.Module, loss: Callable[[], Tensor]) -> dict:
        """Train a network on `DEVICE` to the end, and leave its averaged weights in it, on the CPU.

        `loss` samples its batch and its noise from torch's global generator. That is seeded again at every step, so a
        resumed training has the same batches as an uninterrupted one.

        Returns:
            Steps, images seen, minutes, and mean loss of the last twentieth of the steps, for the model card.

        Raises:
            Diverged: The loss is not finite.
            WeightsMissing: There is no file `start`.
        """
        weights = list(network.to(DEVICE).parameters())
        optimizer = torch.optim.AdamW(weights, lr=self.learning_rate, weight_decay=0.01, betas=self.betas, fused=True)
        ema = EMAModel(weights, decay=self.ema_decay, use_ema_warmup=True, power=0.75)
        progress = Progress()
        state = {"network": network, "optimizer": optimizer, "mean": ema, "count": progress}
        self._resume(state)
        first_step, start = progress.step, time.monotonic() - progress.seconds
        reported = saved = time.monotonic()
        network.train()
        while (share := max(progress.step / self.steps, progress.seconds / 60 / self.minutes)) < 1:
            torch.manual_seed(self.seed * 10**8 + progress.step)
            for group in optimizer.param_groups:
                group["lr"] = self._learning_rate(progress, share)
            progress.losses.append(self._step(loss, weights, optimizer, progress.step))
            ema.step(weights)
            clock = time.monotonic()
            progress.step, progress.images = progress.step + 1, progress.images + self.batch
            progress.seconds = clock - start
            if clock - reported > PROGRESS_INTERVAL_S:
                reported = clock
                self._report(progress)
            if clock - saved > SAVE_INTERVAL_S:
                saved = clock
                self._save(state)
        if progress.step > first_step:
            self._save(state)
        ema.copy_to(weights)
        network.eval().cpu()
        return _summarize(progress)

    def _learning_rate(self, progress: Progress, share: float) -> float:
        warmup_steps = RESTART_WARMUP_STEPS if progress.start_step else self.warmup_steps
        warmup = min(1, (progress.step - progress.start_step + 1) / warmup_steps)
        decay = max(0, 1 - (1 - share) / self.decay_share)
        return self.learning_rate * warmup * (0.5 + 0.5 * math.cos(math.pi * decay))

    def _step(self, loss: Callable[[], Tensor], weights: list[Tensor], optimizer, step: int) -> float:
        value = loss()
        if not math.isfinite(value.item()):
            raise Diverged(f"{self.state_file.stem}: the loss is {value.item()} at step {step}; give a lower rate=.")
        value.backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return value.item()

    def _resume(self, state: dict[str, Any]) -> None:
        progress: Progress = state["count"]
        if self.state_file.exists():
            content = torch.load(self.state_file, map_location=DEVICE, weights_only=True)
            for name, part in state.items():
                part.load_state_dict(content[name])
        elif self.start:
            self._start(state["network"], state["mean"], progress)
        else:
            return
        print(f"{self.state_file.stem}: resumed at step {progress.step}", flush=True)

    def _save(self, state: dict[str, Any]) -> None:
        with atomic_path(self.state_file) as path:
            torch.save({name: part.state_dict() for name, part in state.items()}, path)
        network, ema, progress = state["network"], state["mean"], asdict(state["count"])
        averages = zip(network.named_parameters(), ema.shadow_params, strict=True)
        tensors = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
        tensors |= {f"{AVERAGE}{name}": average.contiguous() for (name, _), average in averages}
        tensors[LOSSES] = torch.tensor(progress.pop("losses"))
        halves = {name: x.half() if x.is_floating_point() else x for name, x in tensors.items()}
        with atomic_path(self.weights_file) as path:
            save_file(halves, path, {"progress": json.dumps(progress), "seed": str(self.seed)})

    def _start(self, network: nn.Module, ema: EMAModel, progress: Progress) -> None:
        """Continue the training of `start` with a new optimiser."""
        if not self.start.is_file():
            raise WeightsMissing(f"there is no file {self.start}; give start= the .safetensors of a training's work=.")
        with safe_open(self.start, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            values = json.loads(file.metadata()["progress"])
        values["losses"] = tensors.pop(LOSSES).tolist()
        averages = {name.removeprefix(AVERAGE): tensors.pop(name) for name in list(tensors) if name.startswith(AVERAGE)}
        network.load_state_dict(tensors)
        for (name, _), average in zip(network.named_parameters(), ema.shadow_params, strict=True):
            average.copy_(averages[name])
        ema.optimization_step = values["step"]
        progress.load_state_dict(values | {"start_step": values["step"]})

    def _report(self, progress: Progress) -> None:
        seconds = progress.seconds
        minutes_left = min(seconds * (self.steps / progress.step - 1) / 60, self.minutes - seconds / 60)
        print(
            f"{self.state_file.stem}: step {progress.step}/{self.steps}, loss {progress.mean_loss(100):.4f}, "
            f"{progress.images / seconds:.1f} images/s, {minutes_left:.0f} min left",
            flush=True,
        )


def _summarize(progress: Progress) -> dict:
    return {
        "steps": progress.step,
        "images seen": progress.images,
        "minutes": round(progress.seconds / 60, 1),
        "training loss, last twentieth": round(progress.mean_loss(max(1, progress.step // 20)), 4),
    }
