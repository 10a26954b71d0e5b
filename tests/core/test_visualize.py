"""Grids of images: every image whole and in its cell, colours on one scale."""

import numpy as np
import torch

from lumen.core.visualize import (
    GAP_PIXELS,
    TEXT_PIXELS,
    layout_to_rgb,
    load_grid,
    make_component_grids,
    make_grid,
    preview_columns,
    save_grid,
    stack_grids,
    stack_named_grids,
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


def test_stacked_component_grids_lose_no_row():
    grids = make_component_grids(torch.ones(3, 200, 200), torch.randn(7, 5, 5), [1 / 7] * 7)
    stack = np.asarray(stack_grids(grids))
    head = TEXT_PIXELS + GAP_PIXELS
    assert len(grids) == 2 and stack.shape[0] == 2 * (head + 200 + GAP_PIXELS)
    second = stack[head + 200 + GAP_PIXELS :]
    assert (second[head + 199, GAP_PIXELS : GAP_PIXELS + 200] < 255).any()


def test_layout_colours_share_one_scale_over_the_batch():
    layout = torch.stack([torch.zeros(3, 8, 8), torch.ones(3, 8, 8)])
    low, high = layout_to_rgb(layout)
    assert (low == 0).all() and (high == 1).all()
    assert layout_to_rgb(torch.randn(1, 1, 8, 8)).shape == (1, 3, 8, 8)


def test_uint8_image_keeps_every_level_of_a_png():
    levels = torch.arange(256).float().view(1, 16, 16).expand(3, -1, -1) / 127.5 - 1
    assert (to_uint8(levels)[..., 0].flatten() == torch.arange(256)).all()


def test_named_grids_are_stacked_with_the_first_half_of_their_rows():
    image = torch.full((4, 3, 16, 16), -1.0)
    image[:2, 0], image[2:, 2] = 1, 1  # two red images, then two blue ones
    grid = make_grid(preview_columns(image, torch.zeros(4, 3, 4, 4), []), [""] * 4)
    stack = stack_named_grids({"one": grid, "two": grid})
    colours = {colour for _, colour in stack.getcolors(9999)}
    head = TEXT_PIXELS + GAP_PIXELS
    assert stack.size == (grid.width, 2 * (2 * head + 2 * (160 + head)))
    assert (255, 0, 0) in colours and (0, 0, 255) not in colours


def test_grid_file_holds_its_images_and_captions(tmp_path):
    image, samples = torch.rand(3, 3, 16, 16) * 2 - 1, [torch.rand(3, 3, 16, 16) * 2 - 1 for _ in range(2)]
    expected = ["a <b> & c", "", "ü" * 400]
    grid = make_grid(preview_columns(image, torch.rand(3, 3, 4, 4), samples), expected)
    save_grid(grid, expected, tmp_path / "grid.png")
    rows, captions = load_grid(tmp_path / "grid.png", 4)
    assert captions == expected and [len(row) for row in rows] == [4, 4, 4]
    for number, row in enumerate(rows):
        for cell, source in ((row[0], image), (row[2], samples[0]), (row[3], samples[1])):
            assert cell.size == (160, 160)
            assert (np.asarray(cell)[::10, ::10] == to_uint8(source[number]).numpy()).all()
    grid.save(tmp_path / "older.png")  # as a run without captions wrote it
    assert load_grid(tmp_path / "older.png", 4)[1] == ["", "", ""]
