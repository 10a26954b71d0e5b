"""Optimization: options of AdamW and the schedule of its learning rate."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

DECAYS: dict[str, Callable[[float], float]] = {
    "constant": lambda progress: 1.0,
    "linear": lambda progress: max(0.0, 1 - progress),
    "cosine": lambda progress: (1 + math.cos(math.pi * min(1.0, progress))) / 2,
}
"""Learning rate as a share of the highest one, by schedule, after a share of the optimiser steps.

Without warmup they are those of diffusers' get_scheduler.
"""


@dataclass(frozen=True)
class Optimization:
    """Options of AdamW, and of what it passes over.

    Attributes:
        lr: Highest learning rate. It is reached linearly within `warmup` optimiser steps, while the schedule lowers it.
        warmup: Optimiser steps.
        weight_decay: Decoupled weight decay.
        steps: Optimiser steps of the run.
        images: Images of a step on all devices together.
        lr_schedule: Name of the schedule; "auto" is the task's own one.
    """

    lr: float = 1e-5
    warmup: int = 500
    weight_decay: float = 1e-2
    steps: int = 1
    images: int = 1
    lr_schedule: str = "auto"

    def schedule(self, optimizer: Optimizer, default: str) -> OptimizerLRScheduler:
        """Return an optimiser with the schedule of its learning rates, as Lightning takes both.

        Args:
            default: Name of the task's own schedule.
        """
        decay = DECAYS[default if self.lr_schedule == "auto" else self.lr_schedule]

        def scale(step: int) -> float:
            return min(1.0, (step + 1) / max(1, self.warmup)) * decay(step / max(1, self.steps))

        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": LambdaLR(optimizer, scale), "interval": "step"}}
