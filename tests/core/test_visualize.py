"""Pictures: every image whole and in its place, colours on one scale."""

import numpy as np
import torch

from lumen.core.visualize import GAP, TEXT, colours, components, grid, load_grid, piled, pixels, save_grid, stacked


def test_a_grid_shows_every_image_whole_and_unsmoothed():
    image = torch.rand(2, 3, 16, 16) * 2 - 1
    picture = np.asarray(grid(image, torch.rand(2, 3, 4, 4), [image, image.flip(0)], ["one", "two"]))
    side, step = 160, 160 + TEXT + GAP
    for row in range(2):
        for column, shown in ((0, image[row]), (2, image[row]), (3, image[1 - row])):
            top, left = TEXT + GAP + row * step, GAP + column * (side + GAP)
            cell = picture[top : top + side : 10, left : left + side : 10]
            assert (cell == pixels(shown).numpy()).all()


def test_stacked_components_lose_no_row():
    sheets = components(torch.ones(3, 200, 200), torch.randn(7, 5, 5), [1 / 7] * 7)
    picture = np.asarray(stacked(sheets))
    assert len(sheets) == 2 and picture.shape[0] == 2 * (TEXT + GAP + 200 + GAP)
    second = picture[TEXT + GAP + 200 + GAP :]
    assert (second[TEXT + GAP + 199, GAP : GAP + 200] < 255).any()


def test_colours_share_one_scale_over_the_batch():
    layout = torch.stack([torch.zeros(3, 8, 8), torch.ones(3, 8, 8)])
    low, high = colours(layout)
    assert (low == 0).all() and (high == 1).all()
    assert colours(torch.randn(1, 1, 8, 8)).shape == (1, 3, 8, 8)


def test_pixels_round_as_a_png_holds_them():
    levels = torch.arange(256).float().view(1, 16, 16).expand(3, -1, -1) / 127.5 - 1
    assert (pixels(levels)[..., 0].flatten() == torch.arange(256)).all()


def test_grids_are_piled_with_the_first_half_of_their_rows():
    image = torch.full((4, 3, 16, 16), -1.0)
    image[:2, 0], image[2:, 2] = 1, 1  # two red images, then two blue
    whole = grid(image, torch.zeros(4, 3, 4, 4), [], [""] * 4)
    pile = piled({"one": whole, "two": whole})
    colours = {colour for _, colour in pile.getcolors(9999)}
    assert pile.size == (whole.width, 2 * (2 * (TEXT + GAP) + 2 * (160 + TEXT + GAP)))
    assert (255, 0, 0) in colours and (0, 0, 255) not in colours


def test_a_grid_is_taken_apart_into_what_was_put_together(tmp_path):
    image, samples = torch.rand(3, 3, 16, 16) * 2 - 1, [torch.rand(3, 3, 16, 16) * 2 - 1 for _ in range(2)]
    said = ["a <b> & c", "", "ü" * 400]
    picture = grid(image, torch.rand(3, 3, 4, 4), samples, said)
    save_grid(picture, said, tmp_path / "grid.png")
    rows, captions = load_grid(tmp_path / "grid.png", 4)
    assert captions == said and [len(row) for row in rows] == [4, 4, 4]
    for number, row in enumerate(rows):
        for found, put in ((row[0], image), (row[2], samples[0]), (row[3], samples[1])):
            assert found.size == (160, 160)
            assert (np.asarray(found)[::10, ::10] == pixels(put[number]).numpy()).all()
    picture.save(tmp_path / "older.png")  # of a run that wrote no captions down
    assert load_grid(tmp_path / "older.png", 4)[1] == ["", "", ""]
