"""Semantic segmentation (SegFormer, Xie et al. 2021, arXiv:2105.15203), learnt from real and from generated images."""

from collections.abc import Callable, Iterator
from typing import Annotated, Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from lumen.core.interfaces import IGNORE, Batch, Optimization, Stage
from lumen.core.ranges import Range, Share
from lumen.core.registry import tasks
from lumen.features.segformer import build_segformer
from lumen.training.prediction import Prediction
from lumen.training.synthetic_images import SyntheticImages


@tasks.register
class Segmentation(Prediction):
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
        images: Training images that the run learns from, and that images are generated for; null takes all.
        unseen: A data set with the same classes and other domains, with its arguments as task.unseen.ARGUMENT, which
            the task is scored on as well, by domain, and from which nothing is learnt.
        row: Outputs of that run that are taken: "test"; "vae", round trips through its autoencoder; or "shuffled",
            whose label maps belong to another image.
        filter: Largest loss of a generated pixel as a multiple of the mean loss of its class on real images, as 1.25;
            pixels above it lose their label. null filters none.
        filter_run: Directory of a finished segmentation run on real images, whose network measures these losses.
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
        images: Annotated[int, Range(1, 10_000_000)] | None = None,
        filter: Annotated[float, Range(0, 1000)] | None = None,
        filter_run: str | None = None,
        unseen: dict[str, Any] | None = None,
        *,
        classes: tuple[str, ...],
        synthetic_images: SyntheticImages | None = None,
        optimization: Optimization,
        seed: int = 0,
    ):
        network, is_pretrained = build_segformer(weights, size, classes), weights != "none"
        super().__init__(network, is_pretrained, flip, distortion, share, synthetic_images, optimization, seed)

    def logits(self, image: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b c H W"]:
        """Return the logits of every pixel; the network's own have a quarter of the size, or half of it if tiny."""
        logits = self.network(self.normalize(image)).logits
        return F.interpolate(logits, image.shape[-2:], mode="bilinear", align_corners=False)

    def losses(
        self, image: Float[Tensor, "b 3 H W"], batch: Batch, is_flipped: Bool[Tensor, " b"] | None = None
    ) -> dict[str, Float[Tensor, ""]]:
        """Return the cross-entropy of all pixels with a class; zero if there is none."""
        mask = batch.mask
        if is_flipped is not None:
            mask = torch.where(is_flipped[:, None, None], mask.flip(-1), mask)
        total = F.cross_entropy(self.logits(image), mask, ignore_index=IGNORE, reduction="sum")
        return {"cross_entropy": total / (mask != IGNORE).sum().clamp(min=1)}

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
        batch = Batch(image, [""] * len(image), ["image"] * len(image), mask)
        yield Stage("forward", "forward", loss=sum(self.losses(image, batch).values()))
