"""Semantic segmentation (SegFormer, Xie et al. 2021, arXiv:2105.15203), learnt from real and from generated images."""

from collections.abc import Callable, Iterator
from typing import Annotated, Any, Literal

import torch
from jaxtyping import Float, Int, UInt8
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.nn import functional as F

from lumen.core.interfaces import IGNORE, Batch, Optimization, Stage, Task
from lumen.core.random import keyed_uniform
from lumen.core.ranges import Range, Share
from lumen.core.registry import tasks
from lumen.features.segformer import build_segformer
from lumen.training.photometric import distort
from lumen.training.synthetic_images import SyntheticImages

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, as SegFormer's image processor has them
HEAD_RATE = 10  # learning rate of a fresh head, as a multiple of that of a pretrained encoder
UNDECAYED = ("norm", "bias")  # parts of the names of parameters without weight decay


@tasks.register
class Segmentation(Task):
    """Training of a SegFormer on label maps.

    Images are flipped and distorted (mmsegmentation's recipe); the learning rate falls linearly to zero.

    Args:
        weights: A hub id or a folder, such as nvidia/mit-b0, whose encoder the training starts from; or none.
        size: Architecture where weights is none: b0, or tiny for images of 64 px.
        flip: Probability of a horizontal flip.
        distortion: Whether colours are distorted.
        synthetic: Directory of a finished run whose generated images replace a share of each batch.
        domains: Domains that their prompts name, such as night; null keeps the captions of the images.
        share: Share of generated images in a batch.
        copies: Generated images for each training image and domain.
        row: Outputs of that run that are taken: "test"; "vae", round trips through its autoencoder; or "shuffled",
            whose label maps belong to another image.
    """

    output_kind = "labels"
    metrics = {"miou": {"segmenter": None}}
    trained_network = "segformer"
    # mmsegmentation's recipe for MiT-B0 on Cityscapes; a backbone and a prompt have no part in it.
    settings = {"lr": 6e-5, "warmup": 1500, "batch": 8, "steps": 160000}

    def __init__(
        self,
        weights: str = "none",
        size: Literal["tiny", "b0"] = "b0",
        flip: Share = 0.5,
        distortion: bool = True,
        synthetic: str | None = None,
        domains: list[str] | None = None,
        share: Share = 0.25,
        copies: Annotated[int, Range(1, 1000)] = 1,
        row: Literal["test", "vae", "shuffled"] = "test",
        *,
        classes: tuple[str, ...],
        synthetic_images: SyntheticImages | None = None,
        optimization: Optimization,
        seed: int = 0,
    ):
        super().__init__(optimization, seed, **({"synthetic": synthetic_images} if synthetic_images else {}))
        self.flip, self.distortion, self.share = flip, distortion, share
        self.head_rate = 1 if weights == "none" else HEAD_RATE
        self.network = build_segformer(weights, size, classes)
        self.register_buffer("mean", torch.tensor(MEAN)[:, None, None], persistent=False)
        self.register_buffer("deviation", torch.tensor(DEVIATION)[:, None, None], persistent=False)

    # ---- synthetic images

    @property
    def synthetic_images(self) -> SyntheticImages | None:
        """Generated images, if the run learns from some."""
        return self.frozen_networks.get("synthetic")

    def cache_keys(self, arguments: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        """Return the sets of generated images, which all runs that learn from the same run share."""
        return self.synthetic_images.cache_keys() if self.synthetic_images else {}

    def encode(self, name: str, batch: Batch) -> UInt8[Tensor, "b 3 H W"]:
        """Return the generated images of a set."""
        return self.synthetic_images.generate(name, batch)

    # ---- training

    def logits(self, image: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b c H W"]:
        """Return the logits of every pixel; the network's own have a quarter of the size, or half of it if tiny."""
        logits = self.network(((image + 1) / 2 - self.mean) / self.deviation).logits
        return F.interpolate(logits, image.shape[-2:], mode="bilinear", align_corners=False)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        keys = [(self.seed, image_id, self.global_step) for image_id in batch.id]
        mixed = self.synthetic_images.mix(batch, self.share, keys) if self.synthetic_images else batch.image
        image, mask = self.augment(mixed, batch.mask, keys)
        loss = self.loss(image, mask)
        self.log("train/loss", loss, prog_bar=True, sync_dist=True, batch_size=len(mask))
        return loss

    def augment(
        self, image: Float[Tensor, "b 3 H W"], mask: Int[Tensor, "b H W"], keys: list[tuple]
    ) -> tuple[Float[Tensor, "b 3 H W"], Int[Tensor, "b H W"]]:
        """Return flipped and distorted images with their label maps."""
        if self.distortion:
            image = distort(image, [(*key, "distortion") for key in keys])
        is_flipped = (keyed_uniform([(*key, "flip") for key in keys]) < self.flip).to(image.device)
        return (
            torch.where(is_flipped[:, None, None, None], image.flip(-1), image),
            torch.where(is_flipped[:, None, None], mask.flip(-1), mask),
        )

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        loss = self.loss(batch.image, batch.mask)
        self.log("val/loss", loss, on_epoch=True, sync_dist=True, prog_bar=True, batch_size=len(batch.mask))

    def loss(self, image: Float[Tensor, "b 3 H W"], mask: Int[Tensor, "b H W"]) -> Float[Tensor, ""]:
        """Return the cross-entropy of all pixels with a class; zero if there is none."""
        total = F.cross_entropy(self.logits(image), mask, ignore_index=IGNORE, reduction="sum")
        return total / (mask != IGNORE).sum().clamp(min=1)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Return AdamW with SegFormer's groups, and a learning rate that falls linearly to zero after its warmup."""
        options, last = self.optimization, self.trainer.max_steps
        optimizer = torch.optim.AdamW(self.parameter_groups(), lr=options.lr)

        def scale(step: int) -> float:
            return min(1.0, (step + 1) / max(1, options.warmup)) * max(0.0, 1 - step / last)

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, scale)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the parameters of encoder and head, with and without weight decay, in an order that never changes."""
        groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
        for name, parameter in self.named_parameters():
            is_decayed = not any(part in name for part in UNDECAYED)
            groups.setdefault(("decode_head" in name, is_decayed), []).append(parameter)
        options = self.optimization
        return [
            {"params": parameters, "lr": options.lr * (self.head_rate if is_head else 1),
             "weight_decay": options.weight_decay if is_decayed else 0.0}
            for (is_head, is_decayed), parameters in groups.items()
        ]  # fmt: skip

    # ---- outputs and cost

    def num_outputs(self, row: str, samples: int) -> int:
        """Return 1: a prediction has no randomness."""
        return 1

    @torch.no_grad()
    def outputs(
        self,
        batch: Batch,
        seeds: list[list[int]],
        row: str = "test",
        other: Callable[[], Batch] | None = None,
        **sampling: Any,
    ) -> Int[Tensor, "b 1 H W"]:
        """Return the class of every pixel."""
        return self.logits(batch.image).argmax(1, keepdim=True)

    def stages(self, image: Float[Tensor, "b 3 H W"]) -> Iterator[Stage]:
        """Yield the training step without generated images, which the cache holds."""
        mask = torch.zeros(len(image), *image.shape[-2:], dtype=torch.long)
        yield Stage("forward", "forward", loss=self.loss(image, mask))
