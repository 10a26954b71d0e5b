"""Disparity and 3D boxes of one image (in the manner of FCOS3D), learnt from real and from generated images."""

from collections.abc import Callable, Iterator
from typing import Annotated, Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lumen.core.boxes import NO_BOX
from lumen.core.errors import BadConfig
from lumen.core.interfaces import Batch, Optimization, Preview, Stage
from lumen.core.ranges import Range, Share
from lumen.core.registry import tasks
from lumen.features.box_cameras import Cameras, read_boxes, read_cameras
from lumen.features.box_coding import CODES, BoxTargets, encode_boxes
from lumen.features.box_detection import detect_boxes, draw_boxes
from lumen.features.geometry_network import GeometryMaps, GeometryNetwork
from lumen.training.geometry_losses import box_losses, disparity_loss
from lumen.training.prediction import Prediction
from lumen.training.synthetic_images import SyntheticImages


@tasks.register
class Geometry(Prediction):
    """Training of a SegFormer with heads for disparity and for 3D boxes, which have no pitch and no roll.

    Images are flipped and distorted; the learning rate falls linearly to zero.

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
        row: Outputs of that run that are taken: "test"; "vae", round trips through its autoencoder; or "shuffled",
            whose disparity and boxes belong to another image.
    """

    output_kind = ("disparity", "boxes")
    annotations = ("disparity", "boxes")
    metrics = {"disparity_rmse": {}, "mds": {}}
    trained_network = "segformer and heads"
    # SegFormer's recipe for MiT-B0 on Cityscapes, for as many steps as TaskPrompter learns there.
    settings = {"lr": 6e-5, "warmup": 1500, "batch": 8, "steps": 40000}

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
        *,
        box_classes: tuple[str, ...],
        synthetic_images: SyntheticImages | None = None,
        optimization: Optimization,
        seed: int = 0,
    ):
        if not box_classes:
            raise BadConfig(
                "task=geometry: the data set has no classes of 3D boxes; choose one that has, as cityscapes."
            )
        network, is_pretrained = GeometryNetwork(weights, size, box_classes), weights != "none"
        super().__init__(network, is_pretrained, flip, distortion, share, synthetic_images, optimization, seed)
        self.box_classes = box_classes

    # ---- training

    def losses(
        self, image: Float[Tensor, "b 3 H W"], batch: Batch, is_flipped: Bool[Tensor, " b"] | None = None
    ) -> dict[str, Float[Tensor, ""]]:
        """Return the losses of disparity and boxes; an image without a file of either has none of its kind."""
        maps, cameras, boxes = self.network(self.normalize(image)), self.cameras(batch), self._labelled_boxes(batch)
        disparity = self._labelled_disparity(batch)
        if is_flipped is not None:
            cameras = cameras.mirror(is_flipped)
            disparity = torch.where(is_flipped[:, None, None], disparity.flip(-1), disparity)
        is_labelled = torch.tensor([content is not None for content in _annotations(batch, "boxes")])
        targets = encode_boxes(boxes, cameras, tuple(maps.label.shape[-2:]))
        return self._losses(maps, disparity, targets, is_labelled.to(image.device))

    def _losses(
        self, maps: GeometryMaps, disparity: Float[Tensor, "b H W"], targets: BoxTargets, is_labelled: Tensor
    ) -> dict[str, Tensor]:
        parts = box_losses(maps, targets, self.network.class_size, is_labelled)
        return {"disparity": disparity_loss(maps.disparity, disparity)} | parts

    def cameras(self, batch: Batch) -> Cameras:
        """Return the cameras of a batch.

        Raises:
            BadSample: A file of boxes lacks the calibration.
        """
        contents, frames = _annotations(batch, "boxes"), _annotations(batch, "frame")
        return read_cameras(batch.id, contents, frames, tuple(batch.image.shape[-2:])).to(batch.image.device)

    def _labelled_boxes(self, batch: Batch) -> Float[Tensor, "b n 16"]:
        return read_boxes(_annotations(batch, "boxes"), self.box_classes).to(batch.image.device)

    def _labelled_disparity(self, batch: Batch) -> Float[Tensor, "b H W"]:
        """Return the disparity of each image; that of an image without a file is invalid."""
        invalid = torch.full(batch.image.shape[-2:], torch.nan)
        maps = [invalid if x is None else x.float() for x in _annotations(batch, "disparity")]
        return torch.stack(maps).to(batch.image.device)

    # ---- outputs

    @torch.no_grad()
    def outputs(
        self,
        batch: Batch,
        seeds: list[list[int]],
        row: str = "test",
        other: Callable[[], Batch] | None = None,
        **sampling: Any,
    ) -> dict[str, Tensor]:
        """Return the disparity of every pixel (b, 1, H, W), and boxes (b, 1, m, 16); see `lumen.core.boxes`."""
        maps = self.network(self.normalize(batch.image))
        boxes = detect_boxes(maps, self.network.class_size, self.cameras(batch))
        return {"disparity": maps.disparity.float()[:, None], "boxes": boxes[:, None]}

    @torch.no_grad()
    def preview(self, batch: Batch, num_samples: int, seed: int, **sampling: Any) -> Preview:
        """Return images beside their disparity and their boxes, first as labelled and then as predicted."""
        outputs, labelled, cameras = self.outputs(batch, []), self._labelled_disparity(batch), self.cameras(batch)
        largest = labelled.nan_to_num().amax((1, 2)).clamp(min=1)
        shades = [x / largest[:, None, None] for x in (labelled.nan_to_num(), outputs["disparity"][:, 0])]
        grey = [x.clamp(0, 1).mul(2).sub(1)[:, None].expand(-1, 3, -1, -1) for x in shades]
        boxes = [draw_boxes(batch.image, x, cameras) for x in (self._labelled_boxes(batch), outputs["boxes"][:, 0])]
        columns = {
            "image": batch.image,
            "labelled disparity": grey[0],
            "disparity": grey[1],
            "labelled boxes": boxes[0],
            "boxes": boxes[1],
        }
        return Preview(columns, batch.caption, {})

    @property
    def legend(self) -> str:
        """Legend of the preview."""
        return "disparity: white is the largest labelled one; boxes: of a score of 0.3 or more"

    # ---- cost

    def stages(self, image: Float[Tensor, "b 3 H W"]) -> Iterator[Stage]:
        """Yield the training step without generated images, which the cache holds."""
        maps = self.network(self.normalize(image))
        grid, size = tuple(maps.label.shape[-2:]), len(image)
        targets = BoxTargets(
            torch.full((size, *grid), NO_BOX), torch.zeros(size, CODES, *grid), torch.zeros(size, *grid)
        )
        parts = self._losses(maps, torch.zeros_like(maps.disparity), targets, torch.ones(size, dtype=torch.bool))
        yield Stage("forward", "forward", loss=sum(parts.values()))


def _annotations(batch: Batch, kind: str) -> list[Any]:
    """Return an annotation of each image, or None."""
    return batch.extra.get(kind) or [None] * len(batch.id)
