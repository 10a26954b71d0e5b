"""Moments of every cell of the joint features of several maps, each map at its own resolution."""

import torch
from jaxtyping import Float
from torch import Tensor

from lumen.core.resize import resize


def joint(maps: list[Float[Tensor, "b _ _ _"]]) -> tuple[int, Float[Tensor, " c"], Float[Tensor, "c c"]]:
    """How many cells the finest map has, their mean, and sums of products about it, as Moments.add() takes them.

    Resizing to the finest map is a small matrix V for the rows and W for the columns of a map. So the product of two
    resized maps is that of the coarser with the finer under V_i' V_j and W_i' W_j: exact, and for layers of 16, 32 and
    64 cells an eighth of the operations that the resized maps would need.

    Args:
        maps: (b, c_i, h_i, w_i) each, the finest last.
    """
    size, widths = maps[-1].shape[-2:], [m.shape[1] for m in maps]
    ways = [_resizing(m, size) for m in maps]
    # Resizing leaves a constant as it is, so centring may come before it.
    means = [_mean(m, *way) for m, way in zip(maps, ways, strict=True)]
    maps = [m - mean[:, None, None] for m, mean in zip(maps, means, strict=True)]
    scatter = maps[0].new_empty(sum(widths), sum(widths))
    blocks = [rows.split(widths, dim=1) for rows in scatter.split(widths)]
    parts = sorted(zip(maps, ways, range(len(maps)), strict=True), key=lambda part: part[0][0, 0].numel())
    for at, (coarse, (v, w), i) in enumerate(parts):
        for fine, (p, q), j in parts[at:]:
            same = coarse.shape[-2:] == fine.shape[-2:] == size
            product = _rows(coarse).T @ _rows(fine if same else v.T @ p @ fine @ (w.T @ q).T)
            blocks[i][j].copy_(product)
            blocks[j][i].copy_(product.T)
    return len(maps[0]) * size[0] * size[1], torch.cat(means), scatter


def _resizing(m: Float[Tensor, "b c h w"], size: tuple[int, int]) -> tuple[Float[Tensor, "H h"], Float[Tensor, "W w"]]:
    """The matrices by which resize() takes a map's rows and columns to a size."""
    h, w = m.shape[-2:]
    rows = torch.eye(h).to(m)[None, :, :, None].expand(-1, -1, -1, w)
    columns = torch.eye(w).to(m)[None, :, None, :].expand(-1, -1, h, -1)
    return resize(rows, size)[0, :, :, 0].T, resize(columns, size)[0, :, 0, :].T


def _mean(m: Float[Tensor, "b c h w"], v: Float[Tensor, "H h"], w: Float[Tensor, "W w"]) -> Float[Tensor, " c"]:
    """Of a map as resized: a cell counts by its share in the cells of the finest."""
    return torch.einsum("bchw,h,w->c", m, v.mean(0), w.mean(0)) / len(m)


def _rows(m: Float[Tensor, "b c h w"]) -> Float[Tensor, "b*h*w c"]:
    return m.permute(0, 2, 3, 1).flatten(0, 2)
