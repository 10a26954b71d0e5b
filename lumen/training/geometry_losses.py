"""Losses of disparity and of 3D boxes, those of FCOS3D (Wang et al. 2021, arXiv:2104.10956) on one level."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import sigmoid_focal_loss

from lumen.core.boxes import NO_BOX
from lumen.features.box_coding import EDGES, SIZE, BoxTargets, cell_centers, decode_edges
from lumen.features.geometry_network import GeometryMaps

FOCAL_ALPHA, FOCAL_GAMMA = 0.25, 2.0
SMOOTHNESS = 1 / 9  # beta of the smooth L1 loss
EPSILON = 1e-7


def disparity_loss(predicted: Float[Tensor, "b H W"], truth: Float[Tensor, "b H W"]) -> Float[Tensor, ""]:
    """Return the mean absolute error over valid pixels; NaN and negative numbers are invalid measurements."""
    is_valid = truth >= 0
    error = predicted - truth.where(is_valid, predicted.detach())  # NaN would reach the gradient of others
    return error.abs().sum() / is_valid.sum().clamp(min=1)


def box_losses(
    maps: GeometryMaps, targets: BoxTargets, class_size: Float[Tensor, "c 3"], is_labelled: Bool[Tensor, " b"]
) -> dict[str, Float[Tensor, ""]]:
    """Return the loss of each part of the boxes, summed over cells, for each cell that learns a box.

    Args:
        class_size: Mean log size of each class, which the predicted sizes are relative to.
        is_labelled: Whether the boxes of an image are known.
    """
    is_box = targets.label != NO_BOX
    count = is_box.sum().clamp(min=1)
    truth = (
        targets.label[:, None] == torch.arange(maps.label.shape[1], device=maps.label.device)[:, None, None]
    ).float()
    focal = sigmoid_focal_loss(maps.label.float(), truth, FOCAL_ALPHA, FOCAL_GAMMA)
    centerness = F.binary_cross_entropy_with_logits(maps.centerness.float(), targets.centerness, reduction="none")
    code = add_class_size(maps.code.float(), class_size[targets.label.clamp(min=0)].movedim(-1, 1))
    smooth = F.smooth_l1_loss(code, targets.code, reduction="none", beta=SMOOTHNESS)[:, : EDGES.start].sum(1)
    cells, stride = cell_centers(tuple(is_box.shape[-2:]), code.new_tensor([is_box.shape[-1], is_box.shape[-2]]))
    edges = [decode_edges(x.flatten(2).mT, cells, stride) for x in (code, targets.code)]
    overlap = overlap_loss(*edges).view_as(smooth)
    return {
        "label": (focal * is_labelled[:, None, None, None]).sum() / count,
        "centerness": centerness.where(is_box, 0).sum() / count,
        "box3d": smooth.where(is_box, 0).sum() / count,
        "box2d": overlap.where(is_box, 0).sum() / count,
    }


def overlap_loss(a: Float[Tensor, "... 4"], b: Float[Tensor, "... 4"]) -> Float[Tensor, "..."]:
    """Return 1 minus the generalised IoU (Rezatofighi et al. 2019) of boxes (left, top, right, bottom).

    It is torchvision's generalized_box_iou_loss without its masks, whose shapes the cost estimate cannot trace.
    """
    inside = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(min=0).prod(-1)
    hull = (torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])).prod(-1)
    union = (a[..., 2:] - a[..., :2]).prod(-1) + (b[..., 2:] - b[..., :2]).prod(-1) - inside
    return 1 - inside / (union + EPSILON) + (hull - union) / (hull + EPSILON)


def add_class_size(code: Float[Tensor, "b 12 *h"], class_size: Float[Tensor, "b 3 *h"]) -> Float[Tensor, "b 12 *h"]:
    """Return coded boxes with sizes in place of ratios to the mean of a class."""
    return torch.cat([code[:, : SIZE.start], code[:, SIZE] + class_size, code[:, SIZE.stop :]], dim=1)
