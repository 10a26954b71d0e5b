"""3D boxes as maps of numbers that a network predicts for each cell of an image, and back.

A box is learnt at the cells around an anchor: its projected centre, or the point nearest to it of what is visible. That
is FCOS3D (Wang et al. 2021, arXiv:2104.10956) on one level, with yaw alone: pitch and roll are 0 in the vehicle frame.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lumen.core.boxes import CENTER, DIMENSIONS, LABEL, MODAL, NO_BOX, ROTATION
from lumen.features.box_cameras import MIN_DEPTH_M, Cameras

CODES = 12
"""Numbers of a coded box. Positions and lengths in the image are in cells, relative to the centre of the cell."""
OFFSET = slice(0, 2)  # to the projected centre of the 3D box
DEPTH = slice(2, 3)  # log of metres along the optical axis, over TYPICAL_DEPTH_M
SIZE = slice(3, 6)  # log of length, width and height in metres
ANGLE = slice(6, 8)  # sine and cosine of the yaw relative to the ray through the centre, as an image shows it
EDGES = slice(8, 12)  # offset to the centre of the 2D box, log of its width and height
RADIUS = 1.5  # cells around an anchor that learn a box, as in FCOS3D
CENTERNESS_FALLOFF = 2.5  # alpha of FCOS3D
TYPICAL_DEPTH_M = 10.0
MIN_EXTENT_PX = 0.5  # of what is visible of a box that is learnt
MAX_LOG = 8.0  # of a predicted length, beyond which nothing is finite


class BoxTargets(NamedTuple):
    """Boxes as a network shall predict them in each cell.

    Attributes:
        label: Class, or `NO_BOX`.
        code: Coded box; 0 where there is none.
        centerness: Nearness to the anchor, from 1 down to 0.
    """

    label: Int[Tensor, "b h w"]
    code: Float[Tensor, "b 12 h w"]
    centerness: Float[Tensor, "b h w"]


def encode_boxes(boxes: Float[Tensor, "b n 16"], cameras: Cameras, grid: tuple[int, int]) -> BoxTargets:
    """Return what a network shall predict in each cell: the box whose anchor is nearest.

    Args:
        grid: Cells along (height, width) of the image.
    """
    center, depth, yaw = _project_centers(boxes, cameras)
    edges, is_visible = _visible_edges(boxes, cameras)
    is_visible &= (boxes[..., LABEL] != NO_BOX) & (depth > MIN_DEPTH_M)
    cells, stride = cell_centers(grid, cameras.size)
    anchor = torch.clamp(center, edges[..., :2], edges[..., 2:])
    gap = (cells.view(-1, 1, 1, 2) - anchor).div(stride).norm(dim=-1)  # (h w) b n
    distance, nearest = gap.masked_fill(~is_visible, torch.inf).min(-1)
    code = torch.cat(
        [
            center / stride,
            (depth.clamp(min=MIN_DEPTH_M) / TYPICAL_DEPTH_M).log()[..., None],
            boxes[..., DIMENSIONS].clamp(min=1e-3).log(),
            torch.stack([yaw.sin(), yaw.cos()], dim=-1),
            (edges[..., :2] + edges[..., 2:]) / 2 / stride,
            ((edges[..., 2:] - edges[..., :2]).clamp(min=MIN_EXTENT_PX) / stride).log(),
        ],
        dim=-1,
    )
    rows = torch.arange(len(boxes), device=boxes.device)
    code = code[rows, nearest]  # (h w) b 12
    relative = cells[:, None] / stride
    code = torch.cat([code[..., OFFSET] - relative, code[..., 2:8], code[..., 8:10] - relative, code[..., 10:]], dim=-1)
    is_box = distance <= RADIUS
    label = torch.where(is_box, boxes[..., LABEL][rows, nearest].long(), NO_BOX)
    centerness = torch.where(is_box, torch.exp(-CENTERNESS_FALLOFF * (distance / RADIUS).square()), 0)
    code = torch.where(is_box[..., None], code, 0)
    return BoxTargets(
        label.T.unflatten(1, grid), code.permute(1, 2, 0).unflatten(2, grid), centerness.T.unflatten(1, grid)
    )


def decode_boxes(
    label: Int[Tensor, "b k"],
    score: Float[Tensor, "b k"],
    code: Float[Tensor, "b k 12"],
    cells: Float[Tensor, "b k 2"],
    stride: Float[Tensor, " 2"],
    cameras: Cameras,
) -> Float[Tensor, "b k 16"]:
    """Return the boxes that a network predicts in some cells; see `lumen.core.boxes`.

    Args:
        cells: Centres of the cells in pixels.
        stride: Width and height of a cell in pixels.
    """
    center = cells + code[..., OFFSET] * stride
    depth = code[..., DEPTH].clamp(-MAX_LOG, MAX_LOG).exp() * TYPICAL_DEPTH_M
    side = (cameras.principal[:, None] - center) / cameras.focal[:, None] * depth
    point = torch.cat([depth, side], dim=-1) - cameras.pose[:, None, :, 3]
    position = torch.einsum("bji,bkj->bki", cameras.pose[:, :, :3], point)
    sine, cosine = code[..., ANGLE].unbind(-1)
    yaw = torch.atan2(sine * cameras.focal[:, :1].sign(), cosine) + torch.atan2(side[..., 0], depth[..., 0])
    zero = torch.zeros_like(yaw)
    rotation = torch.stack([(yaw / 2).cos(), zero, zero, (yaw / 2).sin()], dim=-1)
    size = code[..., SIZE].clamp(-MAX_LOG, MAX_LOG).exp()
    edges = original_edges(decode_edges(code, cells, stride), cameras)
    modal = torch.cat([edges[..., :2], edges[..., 2:] - edges[..., :2]], dim=-1)
    return torch.cat([label[..., None].float(), score[..., None], position, size, rotation, modal], dim=-1)


def decode_edges(
    code: Float[Tensor, "... 12"], cells: Float[Tensor, "... 2"], stride: Float[Tensor, " 2"]
) -> Float[Tensor, "... 4"]:
    """Return left, top, right and bottom of the 2D boxes in pixels of the image."""
    offset, length = code[..., EDGES].split(2, dim=-1)
    middle, half = cells + offset * stride, length.clamp(-MAX_LOG, MAX_LOG).exp() * stride / 2
    return torch.cat([middle - half, middle + half], dim=-1)


def cell_centers(
    grid: tuple[int, int], size: Float[Tensor, " 2"]
) -> tuple[Float[Tensor, "cells 2"], Float[Tensor, " 2"]]:
    """Return the centres (column, row) of the cells of an image in pixels, and the size of a cell."""
    height, width = grid
    stride = size / size.new_tensor([width, height])
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    cells = torch.stack([columns, rows], dim=-1).view(-1, 2).to(size)
    return (cells + 0.5) * stride, stride


def original_edges(edges: Float[Tensor, "b k 4"], cameras: Cameras) -> Float[Tensor, "b k 4"]:
    """Return left, top, right and bottom in pixels of the original frame."""
    corners = (edges.unflatten(-1, (2, 2)) - cameras.shift[:, None, None]) / cameras.scale[:, None, None]
    return torch.cat([corners.amin(-2), corners.amax(-2)], dim=-1)


def _visible_edges(boxes: Float[Tensor, "b n 16"], cameras: Cameras) -> tuple[Float[Tensor, "b n 4"], Tensor]:
    """Return the 2D boxes in pixels of the image, cut off at its edges, and whether anything is left of each."""
    left, width = boxes[..., MODAL].split(2, dim=-1)
    corners = torch.stack([left, left + width], dim=-2) * cameras.scale[:, None, None] + cameras.shift[:, None, None]
    corners = corners.clamp(torch.zeros_like(cameras.size), cameras.size)
    low, high = corners.amin(-2), corners.amax(-2)
    return torch.cat([low, high], dim=-1), (high - low > MIN_EXTENT_PX).all(-1)


def _project_centers(
    boxes: Float[Tensor, "b n 16"], cameras: Cameras
) -> tuple[Float[Tensor, "b n 2"], Float[Tensor, "b n"], Float[Tensor, "b n"]]:
    """Return centres of 3D boxes in pixels of the image, their depths, and their yaws relative to the rays to them."""
    point = torch.einsum("bij,bnj->bni", cameras.pose[..., :3], boxes[..., CENTER]) + cameras.pose[:, None, :, 3]
    depth, side = point[..., :1], point[..., 1:]
    center = cameras.principal[:, None] - cameras.focal[:, None] * side / depth.clamp(min=MIN_DEPTH_M)
    w, x, y, z = boxes[..., ROTATION].unbind(-1)
    yaw = torch.atan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z))
    relative = yaw - torch.atan2(side[..., 0], depth[..., 0])
    return center, depth[..., 0], relative * cameras.focal[:, :1].sign()
