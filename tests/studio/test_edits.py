"""Edits of layouts: each does what its name says to the cells of a region, and nothing to others."""

import pytest
import torch

from lumen.studio.edits import (
    class_vectors,
    copy_region,
    erase_region,
    mirror,
    mirror_region,
    move_region,
    paint_region,
    paste_region,
    select_disc,
    select_drawing,
    select_rectangle,
    select_similar,
    shift,
    weigh_components,
)

SIZE = (6, 8)


@pytest.fixture
def layout():
    """Layout of three components, in which no two cells are alike."""
    return torch.randn(3, *SIZE, generator=torch.Generator().manual_seed(0))


def cells(region):
    return set(map(tuple, region.nonzero().tolist()))


def test_regions_hold_the_cells_that_they_name(layout):
    corners = cells(select_rectangle(SIZE, (3, 5), (2, 4)))
    assert corners == {(2, 4), (2, 5), (3, 4), (3, 5)} == cells(select_rectangle(SIZE, (2, 5), (3, 4)))
    assert cells(select_rectangle(SIZE, (-5, -5), (0, 99))) == {(0, column) for column in range(8)}
    assert cells(select_disc(SIZE, (0, 0), 1)) == {(0, 0), (0, 1), (1, 0)}
    drawing = torch.zeros(60, 80)
    drawing[10:20, 20:36] = 1  # a cell, and six tenths of the next one
    assert cells(select_drawing(drawing, SIZE)) == {(1, 2), (1, 3)}


def test_similar_cells_follow_the_cosine_and_not_the_length(layout):
    layout[:, 2:4, 3:5] = layout[:, 2, 3, None, None] * torch.tensor([[1.0, 0.1], [5.0, 2.0]])
    assert cells(select_similar(layout, (2, 3), 0.999)) == {(2, 3), (2, 4), (3, 3), (3, 4)}
    assert select_similar(layout, (0, 0), -1).all()
    layout[:, 5, 5] = 0  # it has no direction
    assert cells(select_similar(layout, (5, 5), 0.5)) == {(5, 5)}


@pytest.mark.parametrize("rows, columns", [(0, 2), (-1, 0), (3, -4), (9, 9)])
def test_moved_regions_keep_their_vectors_and_others_stay(layout, rows, columns):
    region = select_rectangle(SIZE, (2, 3), (3, 4))
    target, before = shift(region, rows, columns), layout.clone()
    expected = {(r + rows, c + columns) for r, c in cells(region)}
    assert cells(target) == {(r, c) for r, c in expected if 0 <= r < 6 and 0 <= c < 8}
    for edited, touched in ((copy_region(layout, region, rows, columns), target),
                            (move_region(layout, region, rows, columns), target | region)):  # fmt: skip
        for r, c in cells(target):
            assert torch.equal(edited[:, r, c], before[:, r - rows, c - columns])
        assert torch.equal(edited[:, ~touched], before[:, ~touched])
    assert torch.equal(layout, before)  # edits leave what they are given
    left = region & ~target
    outside = before[:, ~region].T.tolist()
    assert all(vector in outside for vector in move_region(layout, region, rows, columns)[:, left].T.tolist())


def test_erased_cells_take_the_nearest_vector_outside(layout):
    region = select_rectangle(SIZE, (0, 0), (5, 2))
    assert torch.equal(erase_region(layout, region)[..., :3], layout[..., 3:4].expand(-1, -1, 3))
    assert not erase_region(layout, torch.ones(SIZE, dtype=torch.bool)).any()
    assert torch.equal(erase_region(layout, torch.zeros(SIZE, dtype=torch.bool)), layout)


def test_mirrored_twice_a_region_is_as_before(layout):
    region = select_rectangle(SIZE, (1, 2), (2, 6)) & ~select_rectangle(SIZE, (1, 2), (1, 3))
    mirrored = mirror_region(layout, region)
    assert torch.equal(mirrored[:, 2, 2:7], layout[:, 2, 2:7].flip(1))
    assert torch.equal(mirrored[:, ~(region | mirror(region))], layout[:, ~(region | mirror(region))])
    assert torch.equal(mirror_region(mirrored, mirror(region))[:, region], layout[:, region])
    assert torch.equal(mirror_region(layout, torch.zeros_like(region)), layout)


def test_pasted_regions_come_from_the_other_layout(layout):
    other, region = layout.flip(0), select_rectangle(SIZE, (1, 1), (2, 2))
    assert torch.equal(paste_region(layout, other, region)[:, region], other[:, region])
    half = other[:, ::2, ::2]
    assert torch.equal(paste_region(layout, half, region)[:, 2, 2], half[:, 1, 1])


def test_painted_cells_have_one_vector_and_gains_scale_components(layout):
    region, vector = select_disc(SIZE, (2, 2), 1.5), torch.tensor([1.0, 2.0, 3.0])
    painted = paint_region(layout, region, vector)
    assert torch.equal(painted[:, region], vector[:, None].expand(-1, 9))
    assert torch.equal(painted[:, ~region], layout[:, ~region])
    weighed = weigh_components(layout, torch.tensor([1.0, 0.0, -2.0]))
    assert torch.equal(weighed, torch.stack([layout[0], 0 * layout[1], -2 * layout[2]]))


def test_class_vectors_are_means_of_cells(layout):
    mask = torch.full((1, 60, 80), 255)
    mask[:, :10, :20], mask[:, 30:40, 70:] = 0, 2  # cells (0, 0) and (0, 1), and (3, 7)
    vectors = class_vectors(layout[None], mask, 3)
    assert torch.allclose(vectors[0], layout[:, 0, :2].mean(1)) and vectors[1].isnan().all()
    assert torch.equal(vectors[2], layout[:, 3, 7])
