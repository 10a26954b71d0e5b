"""Views of the same scenes for a network to agree on: crops, mirror images and other colours, a batch at once."""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

GREY = (0.299, 0.587, 0.114)


def cropped(
    image: Float[Tensor, "b 3 H W"], size: int, least: float, most: float
) -> tuple[Float[Tensor, "b 3 h w"], Float[Tensor, "b 2 2"]]:
    """One crop of each image, of `least` to `most` of its area, mirrored half of the time, `size` pixels wide and high.

    Returns:
        the crops and their places: half of the width and height, the width below 0 where the crop is mirrored, and
        the centre, both as (x, y) in an image that goes from -1 to 1.

    Source: torchvision's RandomResizedCrop with its ratios of 3/4 to 4/3, but without antialiasing: crops are
    seldom made smaller here.
    """
    b = len(image)
    area = torch.empty(b).uniform_(least, most)
    ratio = torch.empty(b).uniform_(math.log(3 / 4), math.log(4 / 3)).exp()
    sides = torch.stack([(area * ratio).sqrt(), (area / ratio).sqrt()], 1).clamp(max=1)
    centre = (torch.rand(b, 2) * 2 - 1) * (1 - sides)
    sides[:, 0] *= torch.where(torch.rand(b) < 0.5, -1.0, 1.0)
    turn = torch.cat([torch.diag_embed(sides), centre[:, :, None]], 2)
    grid = F.affine_grid(turn, [b, 3, size, size], align_corners=False).to(image)
    crop = F.grid_sample(image, grid, padding_mode="border", align_corners=False)
    return crop, torch.stack([sides, centre], 1)


def elsewhere(
    here: Float[Tensor, "b 2 2"], there: Float[Tensor, "b 2 2"], n: int
) -> tuple[Float[Tensor, "b n n 2"], Bool[Tensor, "b n n"]]:
    """Where in the crop `there` the n x n cells of the crop `here` are, from -1 to 1, and which are well inside it."""
    cells = (torch.arange(n, device=here.device) + 0.5) / n * 2 - 1
    mine = torch.stack(torch.meshgrid(cells, cells, indexing="xy"), -1)
    (sides, centre), (others, middle) = here[:, :, None, None].unbind(1), there[:, :, None, None].unbind(1)
    place = (mine * sides + centre - middle) / others
    return place, (place.abs() < 1 - 0.5 / n).all(-1)


def coloured(image: Float[Tensor, "b 3 H W"], strength: float = 0.4, grey: float = 0.1) -> Float[Tensor, "b 3 H W"]:
    """Other brightness, contrast, saturation and hue for each image, and a share of them grey; still in [-1, 1]."""
    b = len(image)
    gain = 1 + torch.empty(2, b, 1, 1).uniform_(-strength, strength)
    saturation = torch.where(torch.rand(b, 1, 1) < grey, 0.0, gain[0])
    # a turn about the grey axis moves the hue; the rest of the matrix draws colours to their grey or from it
    angle = torch.empty(b, 1, 1).uniform_(-math.pi, math.pi) * strength / 4
    cross = torch.tensor([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / math.sqrt(3)
    turn = angle.cos() * torch.eye(3) + angle.sin() * cross + (1 - angle.cos()) / 3
    mixing = saturation * turn + (1 - saturation) * torch.tensor(GREY).expand(3, 3)
    mixed = torch.einsum("bij,bjhw->bihw", (gain[1] * mixing).to(image), image)
    brightness = torch.empty(b, 1, 1, 1).uniform_(-strength, strength)
    return (mixed + brightness.to(image)).clamp(-1, 1)
