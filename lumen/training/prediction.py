"""Training of a network that predicts what is labelled in images, from real and from generated images."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Bool, Float, UInt8
from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn

from lumen.core.errors import Mistake
from lumen.core.interfaces import Batch, Optimization, Preview, Task
from lumen.core.random import keyed_uniform
from lumen.training.photometric import distort
from lumen.training.synthetic_images import SyntheticImages

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, as SegFormer's image processor has them
HEAD_RATE = 10  # learning rate of a fresh head, as a multiple of that of a pretrained encoder
ENCODER = ".encoder."  # part of the names of the encoder's parameters


class Prediction(Task):
    """Task of a SegFormer with heads, which learns from images, a share of which may be generated.

    Images are flipped and distorted (mmsegmentation's recipe). The learning rate falls linearly to zero, unless a
    config names another schedule. Subclasses implement `losses` and `outputs`.

    Args:
        network: Network that learns.
        is_pretrained: Whether its encoder is; its heads then learn faster.
        flip: Probability of a horizontal flip.
        distortion: Whether colours are distorted.
        share: Share of generated images in a batch.
        synthetic_images: Generated images, if the run learns from some.
    """

    lr_schedule = "linear"

    def __init__(
        self,
        network: nn.Module,
        is_pretrained: bool,
        flip: float,
        distortion: bool,
        share: float,
        synthetic_images: SyntheticImages | None,
        optimization: Optimization,
        seed: int,
    ):
        super().__init__(optimization, seed, **({"synthetic": synthetic_images} if synthetic_images else {}))
        self.network, self.flip, self.distortion, self.share = network, flip, distortion, share
        self.is_pretrained, self.head_rate = is_pretrained, HEAD_RATE if is_pretrained else 1
        self.register_buffer("mean", torch.tensor(MEAN)[:, None, None], persistent=False)
        self.register_buffer("deviation", torch.tensor(DEVIATION)[:, None, None], persistent=False)

    # ---- synthetic images

    @property
    def synthetic_images(self) -> SyntheticImages | None:
        """Generated images, if the run learns from some."""
        return self.frozen_networks.get("synthetic")

    def precomputed_keys(self) -> dict[str, dict[str, Any]]:
        """Return the sets of generated images, which all runs that learn from the same run share."""
        return self.synthetic_images.cache_keys() if self.synthetic_images else {}

    def precomputed_bytes(self, size: int) -> dict[str, int]:
        """Return the bytes of a generated image, by set."""
        return dict.fromkeys(self.synthetic_images.sets, 3 * size**2) if self.synthetic_images else {}

    def fit_statistics(self, data: LightningDataModule, cached: Callable[..., Tensor] | None = None) -> None:
        """Measure the losses that generated pixels are compared with, if some are filtered out."""
        if self.synthetic_images and self.synthetic_images.pixel_filter:
            self.synthetic_images.pixel_filter.fit(data, cached)

    def encode(self, name: str, batch: Batch) -> UInt8[Tensor, "b 3 H W"]:
        """Return the generated images of a set."""
        return self.synthetic_images.generate(name, batch)

    def protocol(self) -> dict[str, Any]:
        """Return the recipe: what was learnt from other images is compared under one recipe alone."""
        parameters = sum(parameter.numel() for parameter in self.network.parameters())
        network = {"parameters": parameters, "pretrained": self.is_pretrained}
        optimization = dict(vars(self.optimization))
        if optimization["lr_schedule"] in ("auto", self.lr_schedule):
            del optimization["lr_schedule"]  # what the recipe of earlier releases was
        return {"recipe": optimization | network | {"flip": self.flip, "distortion": self.distortion}}

    def preview(self, batch: Batch, num_samples: int, seed: int, **sampling: Any) -> Preview | None:
        """Return training images beside those generated for them, a column per domain; None if there are none."""
        dataset = getattr(self.trainer.datamodule, "cached_dataset", None)
        if self.synthetic_images is None or dataset is None:
            return None
        count = min(len(batch.id), len(dataset))
        samples = dataset.__getitems__([(i * len(dataset) // count, 0) for i in range(count)])
        if isinstance(samples, Mistake):
            raise samples
        columns = {"image": samples.to(torch.device("cpu")).image}
        for name, title in self.synthetic_images.titles.items():
            columns[title] = samples.cached[name].float() / 127.5 - 1
        return Preview(columns, samples.caption, {})

    # ---- training

    def losses(
        self, image: Float[Tensor, "b 3 H W"], batch: Batch, is_flipped: Bool[Tensor, " b"] | None = None
    ) -> dict[str, Float[Tensor, ""]]:
        """Return the parts of the loss by name.

        Args:
            image: Images that the network sees.
            batch: What is labelled in them.
            is_flipped: Images that are mirrored, and whose labels are not; None if there are none.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement losses()")

    def normalize(self, image: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b 3 H W"]:
        """Return images in [-1, 1] as the encoder expects them."""
        return ((image + 1) / 2 - self.mean) / self.deviation

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        keys = [(self.seed, image_id, self.global_step) for image_id in batch.id]
        mixed = self.synthetic_images.mix(batch, self.share, keys) if self.synthetic_images else batch
        image, is_flipped = self.augment(mixed.image, keys)
        parts = self.losses(image, mixed, is_flipped)
        loss = sum(parts.values())
        self.log("train/loss", loss, prog_bar=True, sync_dist=True, batch_size=len(image))
        self._log_parts("train", parts)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        parts, size = self.losses(batch.image, batch), len(batch.image)
        self.log("val/loss", sum(parts.values()), on_epoch=True, sync_dist=True, prog_bar=True, batch_size=size)
        self._log_parts("val", parts, on_epoch=True, batch_size=size)

    def _log_parts(self, stage: str, parts: dict[str, Tensor], **options: Any) -> None:
        if len(parts) > 1:
            self.log_dict({f"{stage}/loss_{name}": x for name, x in parts.items()}, sync_dist=True, **options)

    def augment(
        self, image: Float[Tensor, "b 3 H W"], keys: list[tuple]
    ) -> tuple[Float[Tensor, "b 3 H W"], Bool[Tensor, " b"]]:
        """Return flipped and distorted images, and which of them are flipped."""
        if self.distortion:
            image = distort(image, [(*key, "distortion") for key in keys])
        is_flipped = (keyed_uniform([(*key, "flip") for key in keys]) < self.flip).to(image.device)
        return torch.where(is_flipped[:, None, None, None], image.flip(-1), image), is_flipped

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Return AdamW with SegFormer's groups, and its schedule."""
        optimizer = torch.optim.AdamW(self.parameter_groups(), lr=self.optimization.lr)
        return self.optimization.schedule(optimizer, self.lr_schedule)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the parameters of encoder and heads, with and without weight decay, in an order that never changes."""
        groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
        for name, parameter in self.named_parameters():
            is_decayed = parameter.ndim > 1  # neither norm nor bias
            groups.setdefault((ENCODER not in name, is_decayed), []).append(parameter)
        options = self.optimization
        return [
            {"params": parameters, "lr": options.lr * (self.head_rate if is_head else 1),
             "weight_decay": options.weight_decay if is_decayed else 0.0}
            for (is_head, is_decayed), parameters in groups.items()
        ]  # fmt: skip

    # ---- outputs

    def num_outputs(self, row: str, samples: int) -> int:
        """Return 1: a prediction has no randomness."""
        return 1
