"""The Lightning module: one training and validation loop for every backbone and conditioning."""

import torch
from jaxtyping import Float
from lightning.pytorch import LightningModule
from lightning.pytorch.plugins.precision import MixedPrecision, Precision
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.optim import Optimizer

from lumen.core.errors import BadCheckpoint
from lumen.core.interfaces import Batch, Conditioning
from lumen.core.random import stable_seed, keyed_uniform
from lumen.diffusion.activation_reuse import encoded
from lumen.generators.controlnet import ControlledDiffusion
from lumen.training.fit_conditioning import fit

BINS = 4  # equal parts of the noise schedule that the validation loss is reported in


class LayoutModule(LightningModule):
    """Teaches a ControlNet to paint the image whose layout it is shown.

    Args:
        lr: of AdamW, reached linearly within `warmup` optimiser steps, then constant.
        seed: of timesteps, noise and dropped prompts; each belongs to (seed, sample id, step), so
            one process or eight draw the same.
    """

    def __init__(
        self,
        diffusion: ControlledDiffusion,
        conditioning: Conditioning,
        lr: float = 1e-5,
        warmup: int = 500,
        weight_decay: float = 1e-2,
        seed: int = 0,
    ):
        super().__init__()
        self.diffusion, self.conditioning = diffusion, conditioning
        self.lr, self.warmup, self.weight_decay, self.seed = lr, warmup, weight_decay, seed

    def on_fit_start(self) -> None:
        """Fits the conditioning where no checkpoint has brought it: inside the process group, so ranks share it."""
        fit(self.conditioning, self.trainer.datamodule, self.seed)

    def on_train_batch_start(self, batch: Batch, index: int) -> None:
        """What is drawn without a key, as by dropout, follows from the step as well: a continued run draws the same."""
        torch.manual_seed(stable_seed(self.seed, self.global_rank, index))

    def training_step(self, batch: Batch, index: int) -> Tensor:
        moments, layout = self.seen(batch)
        keys = [(self.seed, i, self.global_step) for i in batch.id]
        loss = self.diffusion.loss(moments, batch.caption, layout, keys).mean()
        self.log("train/loss", loss, prog_bar=True, sync_dist=True, batch_size=len(layout))
        return loss

    def seen(self, batch: Batch) -> tuple[Float[Tensor, "b n h w"], Float[Tensor, "b k _ _"]]:
        """Moments of the latents, and the layout, of a batch: from a cache where they came from there."""
        moments = self.diffusion.moments(batch.image) if batch.moments is None else batch.moments.float()
        if batch.layout is None:
            with encoded(self.diffusion.pipeline.vae, moments):
                return moments, self.conditioning(batch)
        return moments, self.conditioning.to_layout(batch.layout.float())

    def validation_step(self, batch: Batch, index: int) -> None:
        """The loss of each image at one fixed timestep and noise per bin: comparable between steps, runs and ranks."""
        moments, layout = self.seen(batch)
        last = self.diffusion.pipeline.scheduler.config.num_train_timesteps
        total = 0
        for part in range(BINS):
            keys = [("validation", i, part) for i in batch.id]
            timesteps = ((part + keyed_uniform([(*k, "timestep") for k in keys])) * last / BINS).long()
            loss = self.diffusion.loss(moments, batch.caption, layout, keys, timesteps).mean()
            name = f"val/loss_t{part * last // BINS:04d}-{(part + 1) * last // BINS - 1:04d}"
            self.log(name, loss, on_epoch=True, sync_dist=True, batch_size=len(layout))
            total = total + loss / BINS
        self.log("val/loss", total, on_epoch=True, sync_dist=True, prog_bar=True, batch_size=len(layout))

    def configure_optimizers(self) -> OptimizerLRScheduler:
        learns = [p for p in self.parameters() if p.requires_grad]
        # Fused, it passes over the weights once, not a dozen times. On a CPU that gains a fiftieth of a step, for which
        # the bits of measured figures are not given up. fp16's scaler would be clipped before it unscales.
        fused = self.device.type == "cuda" and getattr(self.trainer.precision_plugin, "scaler", None) is None
        optimizer = torch.optim.AdamW(learns, lr=self.lr, weight_decay=self.weight_decay, fused=fused)
        ramp = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / max(1, self.warmup)))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": ramp, "interval": "step"}}

    def configure_gradient_clipping(
        self, optimizer: Optimizer, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        """Lightning clips for no fused optimizer in mixed precision, though in bf16 there is nothing to unscale."""
        plugin = self.trainer.precision_plugin
        if isinstance(plugin, MixedPrecision) and plugin.scaler is None:
            Precision.clip_gradients(plugin, optimizer, gradient_clip_val or 0.0)
        else:
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        checkpoint["frozen"] = self.diffusion.identity

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        """
        Raises:
            BadCheckpoint: it was trained with another backbone, N, or base model.
        """
        theirs, mine = checkpoint["state_dict"], self.state_dict()
        shape = {k: tuple(v.shape) if isinstance(v, Tensor) else None for k, v in mine.items()}
        for name in sorted(theirs.keys() | mine.keys()):
            there = tuple(theirs[name].shape) if isinstance(theirs.get(name), Tensor) else None
            if there != shape.get(name):
                raise BadCheckpoint(
                    f"this checkpoint belongs to another configuration: {name} has the shape {there} there and "
                    f"{shape.get(name)} here; name the backbone, conditioning and base model that it was trained with."
                )
        for name, mine in self.diffusion.identity.items():
            if (there := checkpoint["frozen"][name]) != mine:
                raise BadCheckpoint(
                    f"this checkpoint was trained on another {name} (weights {there}, here {mine}); give the same "
                    "diffusion.weights, revision and vae."
                )
