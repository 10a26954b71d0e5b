"""A training that can be stopped and gone on with: state beside the weights, progress, time left."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers.training_utils import EMAModel
from torch import Tensor, nn

from lumen.core.errors import Diverged
from lumen.core.files import beside

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
EVERY = 30  # seconds between lines of progress
KEEP = 120  # seconds between states: what a power cut costs


@dataclass(frozen=True)
class Course:
    """How long and how fast to learn. It ends at `steps` or after `minutes` of work, whichever comes first.

    The same command goes on where it was stopped; with more steps or minutes, beyond where it had ended.
    """

    state: Path
    steps: int
    batch: int
    rate: float
    minutes: float = math.inf
    seed: int = 0
    decay: float = 0.999  # of the average of the weights
    warm: int = 200  # steps to the full learning rate

    def train(self, network: nn.Module, loss: Callable[[], Tensor]) -> dict:
        """Teaches `network` on `DEVICE` until the end and leaves its averaged weights in it, on the CPU.

        `loss` draws its batch and its noise from torch's own generator, seeded anew at every step, so a
        training that was stopped sees what an undisturbed one sees.

        Returns:
            what the model card tells: steps, samples seen, minutes, mean loss of the last twentieth of them.

        Raises:
            Diverged: the loss is not finite.
        """
        weights = list(network.to(DEVICE).parameters())
        optimizer = torch.optim.AdamW(weights, lr=self.rate, weight_decay=0.01, betas=(0.9, 0.99), fused=True)
        mean = EMAModel(weights, decay=self.decay, use_ema_warmup=True, power=0.75)
        parts = {"network": network, "optimizer": optimizer, "mean": mean}
        count = self._resume(parts)
        first, start = count["step"], time.monotonic() - count["spent"]
        told = kept = time.monotonic()
        network.train()
        while (done := max(count["step"] / self.steps, count["spent"] / 60 / self.minutes)) < 1:
            torch.manual_seed(self.seed * 10**8 + count["step"])
            for group in optimizer.param_groups:
                group["lr"] = self._rate(count["step"], done)
            count["losses"].append(self._learn(loss, weights, optimizer, count["step"]))
            mean.step(weights)
            now = time.monotonic()
            count |= {"step": count["step"] + 1, "seen": count["seen"] + self.batch, "spent": now - start}
            if now - told > EVERY:
                told = now
                self._tell(**count)
            if now - kept > KEEP:
                kept = now
                self._keep(parts, count)
        if count["step"] > first:
            self._keep(parts, count)
        mean.copy_to(weights)
        network.eval().cpu()
        return self._figures(**count)

    def _rate(self, step: int, done: float) -> float:
        """Rises over the warm-up, then falls along half a cosine to nothing."""
        return self.rate * min(1, (step + 1) / self.warm) * (0.5 + 0.5 * math.cos(math.pi * done))

    def _learn(self, loss: Callable[[], Tensor], weights: list[Tensor], optimizer, step: int) -> float:
        value = loss()
        if not math.isfinite(value.item()):
            raise Diverged(f"{self.state.stem}: the loss is {value.item()} at step {step}; give a lower rate=.")
        value.backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return value.item()

    def _figures(self, step: int, seen: int, spent: float, losses: list[float]) -> dict:
        last = losses[-max(1, step // 20) :]
        return {
            "steps": step,
            "samples seen": seen,
            "minutes": round(spent / 60, 1),
            "training loss, last twentieth": round(sum(last) / len(last), 4),
        }

    def _resume(self, parts: dict) -> dict:
        if not self.state.exists():
            return {"step": 0, "seen": 0, "spent": 0.0, "losses": []}
        state = torch.load(self.state, map_location=DEVICE, weights_only=True)
        for name, part in parts.items():
            part.load_state_dict(state[name])
        print(f"{self.state.stem}: goes on at step {state['count']['step']}", flush=True)
        return state["count"]

    def _keep(self, parts: dict, count: dict) -> None:
        with beside(self.state) as draft:
            torch.save({name: part.state_dict() for name, part in parts.items()} | {"count": count}, draft)

    def _tell(self, step: int, seen: int, spent: float, losses: list[float]) -> None:
        left = min(spent * (self.steps / step - 1) / 60, self.minutes - spent / 60)
        recent = losses[-100:]
        print(
            f"{self.state.stem}: step {step}/{self.steps}, loss {sum(recent) / len(recent):.4f}, "
            f"{seen / spent:.1f} images/s, {left:.0f} min left",
            flush=True,
        )
