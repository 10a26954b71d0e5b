"""What happens around training: guards, averages, speed, pictures."""

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers.training_utils import EMAModel
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar
from torch import Tensor, nn

from lumen.core.errors import Diverged
from lumen.core.files import beside
from lumen.core.interfaces import Batch
from lumen.core.random import stable_seed
from lumen.core.visualize import grid, save_grid


class Progress(TQDMProgressBar):
    """Lightning's bar, one for the whole run, so the time it shows as left is the time left."""

    def get_metrics(self, *arguments: Any) -> dict[str, Any]:
        items = super().get_metrics(*arguments)
        items.pop("v_num", None)
        return items


class Guard(Callback):
    """Stops a run whose loss is not finite or whose frozen networks move: its numbers would mean nothing."""

    def __init__(self, frozen: dict[str, nn.Module], every: int):
        self.frozen, self.every = frozen, every
        self.before: dict[str, float] = {}

    def on_fit_start(self, trainer: Trainer, module: LightningModule) -> None:
        self.before = self._sums()

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, outputs: Any, *_: Any) -> None:
        # Not at every step: each look waits for the GPU.
        if trainer.global_step % self.every == 0:
            self._finite(trainer, outputs["loss"])

    def on_validation_start(self, trainer: Trainer, module: LightningModule) -> None:
        self._still(trainer)

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        self._still(trainer)

    def on_save_checkpoint(self, trainer: Trainer, module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if not all(bool(p.isfinite().all()) for p in module.parameters()):
            self._finite(trainer, torch.tensor(math.nan))

    def _finite(self, trainer: Trainer, loss: Tensor) -> None:
        if not bool(loss.isfinite()):
            raise Diverged(
                f"at step {trainer.global_step} the loss is no longer a finite number; the last checkpoint before it "
                "is kept: lower lr, raise warmup, or set precision=32-true."
            )

    def _still(self, trainer: Trainer) -> None:
        moved = [name for name, value in self._sums().items() if value != self.before.get(name, value)]
        if moved:
            raise Diverged(
                f"by step {trainer.global_step} the frozen {' and '.join(moved)} had changed; nothing may train them: "
                "look for code that writes to their parameters."
            )

    @torch.no_grad()
    def _sums(self) -> dict[str, float]:
        """Per network, the sum of its parameters weighted by their place in the list."""
        return {
            name: sum(float((i % 97 + 1) * p.double().sum()) for i, p in enumerate(network.parameters()))
            for name, network in self.frozen.items()
        }


class Average(Callback):
    """An exponential moving average of what is trained, used for validation and pictures.

    Lightning's own averages a deep copy of the frozen networks as well.
    """

    def __init__(self, decay: float):
        self.decay = decay
        self.model: EMAModel | None = None
        self.step = 0
        self.state: dict[str, Any] = {}

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        self.model = EMAModel(learning(module), decay=self.decay, use_ema_warmup=True, foreach=True)
        if self.state:
            self.model.load_state_dict(self.state)
            self.model.to(module.device)
        self.step = trainer.global_step

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *_: Any) -> None:
        if trainer.global_step > self.step:
            self.step = trainer.global_step
            self.model.step(learning(module))

    def on_validation_start(self, trainer: Trainer, module: LightningModule) -> None:
        if self.model is not None:
            self.model.store(learning(module))
            self.model.copy_to(learning(module))

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        if self.model is not None:
            self.model.restore(learning(module))

    on_test_start, on_test_end = on_validation_start, on_validation_end

    def state_dict(self) -> dict[str, Any]:
        return self.model.state_dict() if self.model else self.state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.state = state


class Meter(Callback):
    """Images per second and peak memory, logged with the loss."""

    def __init__(self, every: int):
        self.every = every
        self.images, self.since = 0, None

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Batch, index: int
    ) -> None:
        self.images += len(batch.id) * trainer.world_size
        if trainer.global_step % self.every or (index + 1) % trainer.accumulate_grad_batches:
            return
        now = time.perf_counter()
        if self.since is not None:
            module.log("train/images_per_s", self.images / (now - self.since), prog_bar=True)
        if module.device.type == "cuda":
            module.log("train/peak_gib", torch.cuda.max_memory_allocated(module.device) / 2**30, prog_bar=True)
        self.images, self.since = 0, now

    def on_validation_start(self, trainer: Trainer, module: LightningModule) -> None:
        self.images, self.since = 0, None  # validation is not training speed


class Pictures(Callback):
    """Image, layout and samples of fixed validation images with fixed seeds, drawn whenever validation ends.

    Logs `val/response`: by how much of the range of a pixel the first sample changes, on average, when the image
    is shown the layout of another and all else, the noise included, stays. At 0 the layout is not heeded.
    """

    def __init__(self, folder: Path, batch: Batch, sampling: dict[str, Any], seed: int, show: Callable | None = None):
        self.folder, self.batch, self.sampling, self.seed = folder, batch, dict(sampling), seed
        self.show = show
        self.count = self.sampling.pop("images")
        self.step = -1  # when it last drew

    # In the epoch's own end, so that it can log, and before Average puts the live weights back.
    def on_validation_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        self.step = trainer.global_step
        if not trainer.is_global_zero:
            return
        batch = module.transfer_batch_to_device(self.batch, module.device, 0)
        with torch.no_grad(), trainer.precision_plugin.forward_context():
            layout = module.conditioning(batch)
            samples = [self._sample(module, batch, layout, k) for k in range(self.count)]
            other = self._sample(module, batch, layout.roll(1, dims=0), 0)
        if len(layout) > 1:
            module.log("val/response", (samples[0] - other).abs().mean() / 2, rank_zero_only=True)
        picture = grid(batch.image, module.conditioning.visualize(layout), samples, batch.caption)
        with beside(self.folder / "grid.png") as draft:
            save_grid(picture, batch.caption, draft)
        if self.show is not None:
            self.show(picture, self.step)

    def _sample(self, module: LightningModule, batch: Batch, layout: Tensor, k: int) -> Tensor:
        seeds = [stable_seed(self.seed, "grid", i, k) for i in batch.id]
        return module.diffusion.sample(batch.caption, layout, seeds, batch.image.shape[-2:], **self.sampling)


def learning(module: LightningModule) -> list[nn.Parameter]:
    """The parameters that training changes."""
    return [p for p in module.parameters() if p.requires_grad]
