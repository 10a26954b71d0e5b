"""Multi-crop augmentation on batches: random crops, mirror images and colour jitter."""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

LUMA = (0.299, 0.587, 0.114)


def random_crop(
    image: Float[Tensor, "b 3 H W"], size: int, min_area: float, max_area: float
) -> tuple[Float[Tensor, "b 3 h w"], Float[Tensor, "b 2 2"]]:
    """Return one random crop of each image, mirrored with probability 0.5.

    Source: torchvision's RandomResizedCrop with its ratios of 3/4 to 4/3, but without antialiasing, because crops
    are rarely downscaled here.

    Args:
        size: Side of a crop in pixels.
        min_area: Least share of the image's area.
        max_area: Largest share of the image's area.

    Returns:
        Crops, and the box of each: half of its width and height, then its centre, as (x, y) in image coordinates from
        -1 to 1. The width of a mirrored crop is negative.
    """
    b = len(image)
    area = torch.empty(b).uniform_(min_area, max_area)
    ratio = torch.empty(b).uniform_(math.log(3 / 4), math.log(4 / 3)).exp()
    sides = torch.stack([(area * ratio).sqrt(), (area / ratio).sqrt()], 1).clamp(max=1)
    centre = (torch.rand(b, 2) * 2 - 1) * (1 - sides)
    sides[:, 0] *= torch.where(torch.rand(b) < 0.5, -1.0, 1.0)
    affine = torch.cat([torch.diag_embed(sides), centre[:, :, None]], 2)
    grid = F.affine_grid(affine, [b, 3, size, size], align_corners=False).to(image)
    crop = F.grid_sample(image, grid, padding_mode="border", align_corners=False)
    return crop, torch.stack([sides, centre], 1)


def match_cells(
    source: Float[Tensor, "b 2 2"], target: Float[Tensor, "b 2 2"], n: int
) -> tuple[Float[Tensor, "b n n 2"], Bool[Tensor, "b n n"]]:
    """Return the positions of the n x n cells of one crop in another crop of the same image.

    Args:
        source: Boxes of the crops with the cells, as `random_crop` returns them.
        target: Boxes of the other crops.

    Returns:
        Positions in the target from -1 to 1, and which of them lie well inside it.
    """
    cells = (torch.arange(n, device=source.device) + 0.5) / n * 2 - 1
    cell_centres = torch.stack(torch.meshgrid(cells, cells, indexing="xy"), -1)
    (source_sides, source_centre), (target_sides, target_centre) = (
        box[:, :, None, None].unbind(1) for box in (source, target)
    )
    positions = (cell_centres * source_sides + source_centre - target_centre) / target_sides
    return positions, (positions.abs() < 1 - 0.5 / n).all(-1)


def jitter_colours(
    image: Float[Tensor, "b 3 H W"], strength: float = 0.4, grey: float = 0.1
) -> Float[Tensor, "b 3 H W"]:
    """Return images in [-1, 1] with random brightness, contrast, saturation and hue.

    Args:
        strength: Largest relative change.
        grey: Share of images that lose their colour.
    """
    b = len(image)
    gain = 1 + torch.empty(2, b, 1, 1).uniform_(-strength, strength)
    saturation = torch.where(torch.rand(b, 1, 1) < grey, 0.0, gain[0])
    # A rotation about the grey axis changes the hue; the rest of the matrix changes the saturation.
    angle = torch.empty(b, 1, 1).uniform_(-math.pi, math.pi) * strength / 4
    cross = torch.tensor([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / math.sqrt(3)
    rotation = angle.cos() * torch.eye(3) + angle.sin() * cross + (1 - angle.cos()) / 3
    matrix = saturation * rotation + (1 - saturation) * torch.tensor(LUMA).expand(3, 3)
    mixed = torch.einsum("bij,bjhw->bihw", (gain[1] * matrix).to(image), image)
    brightness = torch.empty(b, 1, 1, 1).uniform_(-strength, strength)
    return (mixed + brightness.to(image)).clamp(-1, 1)
