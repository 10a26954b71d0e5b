"""Grids of images: every image whole and in its cell, layouts with colours and contours."""

import numpy as np
import pytest
import torch

from lumen.core.labels import IGNORE
from lumen.core.visualize import (
    GAP_PIXELS,
    TEXT_PIXELS,
    draw_contours,
    layout_to_rgb,
    load_grid,
    make_grid,
    preview_columns,
    save_grid,
    to_uint8,
)


def test_grid_shows_every_image_whole_and_unsmoothed():
    image = torch.rand(2, 3, 16, 16) * 2 - 1
    grid = np.asarray(make_grid(preview_columns(image, torch.rand(2, 3, 4, 4), [image, image.flip(0)]), ["one", "two"]))
    side, step = 160, 160 + TEXT_PIXELS + GAP_PIXELS
    for row in range(2):
        for column, expected in ((0, image[row]), (2, image[row]), (3, image[1 - row])):
            top, left = TEXT_PIXELS + GAP_PIXELS + row * step, GAP_PIXELS + column * (side + GAP_PIXELS)
            cell = grid[top : top + side : 10, left : left + side : 10]
            assert (cell == to_uint8(expected).numpy()).all()


def test_layout_colours_have_a_scale_per_image():
    bright = torch.rand(1, 3, 8, 8)
    layout = torch.cat([bright, 100 + 0.01 * bright])
    first, second = layout_to_rgb(layout)
    assert torch.allclose(first, second, atol=1e-2) and first.min() == 0 and first.max() == 1
    assert layout_to_rgb(torch.randn(1, 1, 8, 8)).shape == (1, 3, 8, 8)


def test_contours_stand_where_labels_change_and_nowhere_else():
    mask = torch.zeros(1, 4, 4, dtype=torch.long)
    mask[0, :, 2:], mask[0, :2] = 1, IGNORE
    image = torch.full((1, 3, 8, 8), 0.5)
    drawn = draw_contours(image, mask)
    expected = image.clone()
    expected[..., 4:, 3], expected[..., 4:, 4] = 1, -1  # two pixels per label; the upper half has no class
    assert torch.equal(drawn, expected) and (image == 0.5).all()


def test_grid_with_legend_and_contours_is_read_as_without(tmp_path):
    image, mask = torch.rand(2, 3, 16, 16) * 2 - 1, torch.zeros(2, 16, 16, dtype=torch.long)
    mask[:, 8:] = 1
    columns = preview_columns(image, torch.rand(2, 3, 4, 4), [image])
    plain, legend = make_grid(columns, ["a", "b"]), "layout: components 1-3 of 20 " * 20
    grid = make_grid(columns, ["a", "b"], legend, mask)
    save_grid(grid, ["a", "b"], tmp_path / "grid.png", list(columns))
    rows, captions, titles = load_grid(tmp_path / "grid.png", 99)
    assert grid.height > plain.height and captions == ["a", "b"] and titles == ["image", "layout", "sample 1"]
    assert [len(row) for row in rows] == [3, 3]
    for row, source in zip(rows, image, strict=True):
        assert (np.asarray(row[0])[::10, ::10] == to_uint8(source).numpy()).all()
        assert (np.asarray(row[1])[79] == 255).all() and (np.asarray(row[1])[80] == 0).all()


def test_uint8_image_keeps_every_level_of_a_png():
    levels = torch.arange(256).float().view(1, 16, 16).expand(3, -1, -1) / 127.5 - 1
    assert (to_uint8(levels)[..., 0].flatten() == torch.arange(256)).all()


def test_grid_file_holds_its_images_and_captions(tmp_path):
    image, samples = torch.rand(3, 3, 16, 16) * 2 - 1, [torch.rand(3, 3, 16, 16) * 2 - 1 for _ in range(2)]
    expected = ["a <b> & c", "", "ü" * 400]
    grid = make_grid(preview_columns(image, torch.rand(3, 3, 4, 4), samples), expected)
    save_grid(grid, expected, tmp_path / "grid.png")
    rows, captions, _ = load_grid(tmp_path / "grid.png", 4)
    assert captions == expected and [len(row) for row in rows] == [4, 4, 4]
    for number, row in enumerate(rows):
        for cell, source in ((row[0], image), (row[2], samples[0]), (row[3], samples[1])):
            assert cell.size == (160, 160)
            assert (np.asarray(cell)[::10, ::10] == to_uint8(source[number]).numpy()).all()
    grid.save(tmp_path / "older.png")  # as a run without captions wrote it
    assert load_grid(tmp_path / "older.png", 4)[1:] == (["", "", ""], [])


@pytest.mark.parametrize(("height", "width"), [(16, 40), (40, 16), (170, 400)])
def test_grid_of_images_that_are_no_squares_is_read_as_it_was_made(height, width, tmp_path):
    image, legend = torch.rand(3, 3, height, width) * 2 - 1, "layout: components 1-3 of 20 " * 20
    columns = preview_columns(image, torch.rand(3, 3, 4, 4), [image.flip(0)])
    grid = make_grid(columns, ["a", "b", "c"], legend)
    save_grid(grid, ["a", "b", "c"], tmp_path / "grid.png", list(columns))
    rows, captions, _ = load_grid(tmp_path / "grid.png", 99)
    factor = max(1, -(-160 // min(height, width)))
    assert captions == ["a", "b", "c"] and [len(row) for row in rows] == [3, 3, 3]
    for number, row in enumerate(rows):
        for cell, source in ((row[0], image[number]), (row[2], image[2 - number])):
            assert (np.asarray(cell)[::factor, ::factor] == to_uint8(source).numpy()).all()
