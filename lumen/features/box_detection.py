"""Boxes that a network has found in images, and pictures of them."""

import torch
from jaxtyping import Float
from PIL import Image, ImageDraw
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import batched_nms

from lumen.core.boxes import LABEL, MODAL, NO_BOX, NUMBERS, SCORE
from lumen.features.box_cameras import Cameras, project_corners
from lumen.features.box_coding import SIZE, cell_centers, decode_boxes
from lumen.features.geometry_network import GeometryMaps

MAX_CANDIDATES, MAX_BOXES = 1000, 200  # of an image, before and after doubles are removed, as in FCOS3D
MIN_SCORE = 0.05
MAX_OVERLAP = 0.5  # of two boxes of a class
MIN_PICTURE_PIXELS = 256  # shorter side of a picture with boxes
EDGES = ((0, 1), (1, 2), (2, 3), (3, 0), (4, 5), (5, 6), (6, 7), (7, 4), (0, 4), (1, 5), (2, 6), (3, 7))  # of corners
COLOURS = ("#e6194b", "#ffe119", "#3cb44b", "#42d4f4", "#f032e6", "#f58231")  # of classes, used in turn


def detect_boxes(maps: GeometryMaps, class_size: Float[Tensor, "c 3"], cameras: Cameras) -> Float[Tensor, "b m 16"]:
    """Return the boxes of each image, the surest first, filled up with boxes of the label NO_BOX.

    Args:
        class_size: Mean log size of each class, which the predicted sizes are relative to.
    """
    grid, classes = tuple(maps.label.shape[-2:]), maps.label.shape[1]
    cells, stride = cell_centers(grid, cameras.size)
    scores = (maps.label.float().sigmoid() * maps.centerness.float().sigmoid()[:, None]).flatten(1)
    score, index = scores.topk(min(MAX_CANDIDATES, scores.shape[1]), dim=1)
    label, cell = index // len(cells), index % len(cells)
    code = maps.code.float().flatten(2).mT.gather(1, cell[..., None].expand(-1, -1, maps.code.shape[1]))
    code = torch.cat([code[..., : SIZE.start], code[..., SIZE] + class_size[label], code[..., SIZE.stop :]], dim=-1)
    boxes = decode_boxes(label, score, code, cells[cell], stride, cameras)
    return _select(boxes, classes)


def _select(boxes: Float[Tensor, "b k 16"], classes: int) -> Float[Tensor, "b m 16"]:
    """Return the boxes whose score is not low, without those that overlap a surer one of their class."""
    flat = boxes.flatten(0, 1)
    image = torch.arange(len(boxes), device=boxes.device).repeat_interleave(boxes.shape[1])
    edges = torch.cat([flat[:, MODAL][:, :2], flat[:, MODAL][:, :2] + flat[:, MODAL][:, 2:]], dim=1)
    candidates = (flat[:, SCORE] >= MIN_SCORE).nonzero()[:, 0]
    group = image * classes + flat[:, LABEL].long()
    chosen = candidates[batched_nms(edges[candidates], flat[candidates, SCORE], group[candidates], MAX_OVERLAP)]
    is_chosen = torch.zeros(len(flat), dtype=torch.bool, device=boxes.device)
    is_chosen[chosen] = True
    is_chosen = is_chosen.view(boxes.shape[:2])
    order = (~is_chosen).long().argsort(dim=1, stable=True)[:, :MAX_BOXES]  # candidates come by their score
    ordered = boxes.gather(1, order[..., None].expand(-1, -1, NUMBERS))
    return torch.where(is_chosen.gather(1, order)[..., None], ordered, NO_BOX)


def draw_boxes(
    image: Float[Tensor, "b 3 H W"], boxes: Float[Tensor, "b m 16"], cameras: Cameras, min_score: float = 0.3
) -> Float[Tensor, "b 3 h w"]:
    """Return enlarged images in [-1, 1] with the edges of 3D boxes, each in the colour of its class."""
    factor = max(1, -(-MIN_PICTURE_PIXELS // min(image.shape[-2:])))
    enlarged = F.interpolate(image.float(), scale_factor=factor, mode="nearest")
    corners = (project_corners(boxes, cameras) * factor).cpu()
    pictures = []
    for pixels, rows, points in zip(enlarged.cpu(), boxes.cpu(), corners, strict=True):
        canvas = Image.fromarray(((pixels + 1) * 127.5).round().clamp(0, 255).byte().permute(1, 2, 0).numpy())
        pen = ImageDraw.Draw(canvas)
        is_drawn = (rows[:, LABEL] != NO_BOX) & (rows[:, SCORE] >= min_score) & points.isfinite().all(-1).all(-1)
        for row, box in zip(rows[is_drawn], points[is_drawn].tolist(), strict=True):
            colour = COLOURS[int(row[LABEL]) % len(COLOURS)]
            for start, end in EDGES:
                pen.line([*box[start], *box[end]], fill=colour, width=2)
        pictures.append(
            torch.frombuffer(bytearray(canvas.tobytes()), dtype=torch.uint8).view(canvas.height, canvas.width, 3)
        )
    return (torch.stack(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1).to(image.device)
