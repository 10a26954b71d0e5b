"""Cameras of a batch, and the labelled boxes of its images, from the contents of Cityscapes' gtBbox3d files."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from lumen.core.boxes import CENTER, DIMENSIONS, NO_BOX, ROTATION, boxes_to_array
from lumen.core.errors import BadSample

MIN_DEPTH_M = 0.1  # of what is projected
SENSOR_KEYS = ("fx", "fy", "u0", "v0", "sensor_T_ISO_8855")


class Cameras(NamedTuple):
    """Cameras of the images of a batch.

    Attributes:
        focal: Focal lengths in pixels of the image, along columns and rows; the first is negative in a mirrored image.
        principal: Principal point (column, row) in pixels of the image.
        pose: Vehicle frame to camera, both with x forward, y left and z up in metres.
        scale: Pixels of the image for each pixel of the original frame, negative along columns in a mirrored image.
        shift: Position in the image of the corner of the original frame, in pixels.
        size: Width and height of the image in pixels.
    """

    focal: Float[Tensor, "b 2"]
    principal: Float[Tensor, "b 2"]
    pose: Float[Tensor, "b 3 4"]
    scale: Float[Tensor, "b 2"]
    shift: Float[Tensor, "b 2"]
    size: Float[Tensor, " 2"]

    def to(self, device: torch.device) -> "Cameras":
        """Return the cameras on a device."""
        return Cameras(*(tensor.to(device) for tensor in self))

    def mirror(self, is_mirrored: Bool[Tensor, " b"]) -> "Cameras":
        """Return the cameras of images some of which are mirrored."""
        sign = torch.where(is_mirrored, -1.0, 1.0).to(self.focal)
        sign = torch.stack([sign, torch.ones_like(sign)], dim=1)
        edge = torch.where(sign < 0, self.size, 0)
        return self._replace(
            focal=self.focal * sign,
            principal=self.principal * sign + edge,
            scale=self.scale * sign,
            shift=self.shift * sign + edge,
        )


def read_boxes(contents: Sequence[dict[str, Any] | None], classes: Sequence[str]) -> Float[Tensor, "b n 16"]:
    """Return the boxes of the gtBbox3d file of each image, filled up with one or more boxes of the label NO_BOX."""
    rows = [boxes_to_array(content["objects"] if content else [], classes) for content in contents]
    boxes = pad_sequence([torch.from_numpy(row).float() for row in rows], batch_first=True, padding_value=NO_BOX)
    return F.pad(boxes, (0, 0, 0, 1), value=NO_BOX)


def read_cameras(
    ids: Sequence[str], contents: Sequence[dict[str, Any] | None], frames: Sequence[Any], size: tuple[int, int]
) -> Cameras:
    """Return the cameras of the images of a batch; that of an image without a file is of no use.

    Args:
        ids: Names of the images, for messages.
        contents: Content of each gtBbox3d file.
        frames: `CropTransform` of each image, or None where it is the original frame.
        size: (height, width) of the images in pixels.

    Raises:
        BadSample: A file lacks the calibration.
    """
    sensors = [_sensor(image_id, content) for image_id, content in zip(ids, contents, strict=True)]
    numbers = [
        [*(sensor[key] for key in SENSOR_KEYS[:4]), *_view(frame)]
        for sensor, frame in zip(sensors, frames, strict=True)
    ]
    fx, fy, u0, v0, *view = torch.tensor(numbers, dtype=torch.float64).T
    scale, shift = torch.stack(view[:2], dim=1), torch.stack(view[2:], dim=1)
    focal, principal = torch.stack([fx, fy], dim=1) * scale, torch.stack([u0, v0], dim=1) * scale + shift
    pose = torch.tensor([sensor["sensor_T_ISO_8855"][:3] for sensor in sensors], dtype=torch.float64)
    tensors = (focal, principal, pose, scale, shift, torch.tensor(size[::-1]))
    return Cameras(*(tensor.float() for tensor in tensors))


def _sensor(image_id: str, content: dict[str, Any] | None) -> dict[str, Any]:
    if content is None:
        return {"fx": 1, "fy": 1, "u0": 0, "v0": 0, "sensor_T_ISO_8855": torch.eye(4)[:3].tolist()}
    if missing := [key for key in SENSOR_KEYS if key not in content["sensor"]]:
        raise BadSample(
            f"the 3D boxes of {image_id} come without the camera's '{missing[0]}', which they are projected with; "
            "restore the file of gtBbox3d."
        )
    return content["sensor"]


def _view(frame: Any) -> tuple[float, float, float, float]:
    """Return scale and shift of columns and rows that take an original frame to the image."""
    if frame is None:
        return 1, 1, 0, 0
    scale = [resized / original for resized, original in zip(frame.resized, frame.original_size, strict=True)]
    left, upper, right, _ = frame.window
    return (-scale[0], scale[1], right, -upper) if frame.flipped else (*scale, -left, -upper)


def project_corners(boxes: Float[Tensor, "b k 16"], cameras: Cameras) -> Float[Tensor, "b k 8 2"]:
    """Return the corners of 3D boxes in pixels of the image; NaN of those behind the camera."""
    signs = torch.tensor([[x, y, z] for z in (-1, 1) for x, y in ((-1, -1), (-1, 1), (1, 1), (1, -1))]).to(boxes) / 2
    w, _, _, z = boxes[..., ROTATION].unbind(-1)
    yaw = 2 * torch.atan2(z, w)
    corners = signs * boxes[..., None, DIMENSIONS]
    sine, cosine = yaw.sin()[..., None], yaw.cos()[..., None]
    x, y = corners[..., 0] * cosine - corners[..., 1] * sine, corners[..., 0] * sine + corners[..., 1] * cosine
    corners = torch.stack([x, y, corners[..., 2]], dim=-1) + boxes[..., None, CENTER]
    point = torch.einsum("bij,bknj->bkni", cameras.pose[..., :3], corners) + cameras.pose[:, None, None, :, 3]
    flat = cameras.principal[:, None, None] - cameras.focal[:, None, None] * point[..., 1:] / point[..., :1]
    return torch.where(point[..., :1] > MIN_DEPTH_M, flat, torch.nan)
