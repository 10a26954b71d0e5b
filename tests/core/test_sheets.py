"""Sheets of pictures: components of photos and rows of a table, each picture whole and in its place."""

import numpy as np
import pytest
import torch

from lumen.core.sheets import component_pictures, make_comparison_sheet, make_layout_sheet
from lumen.core.visualize import GAP_PIXELS, TEXT_PIXELS, Grid, load_grid, make_grid, preview_columns, save_grid

SIDE, HEAD = 160, TEXT_PIXELS + GAP_PIXELS


def tile(sheet, row, column, top=0):
    """Return the pixels of a tile, of which each of the source is ten wide."""
    y, x = top + HEAD + row * (SIDE + HEAD), GAP_PIXELS + column * (SIDE + GAP_PIXELS)
    return np.asarray(sheet)[y : y + SIDE : 10, x : x + SIDE : 10]


def pixels(image):
    return ((image + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()


def test_components_of_one_photo_are_all_shown_in_lines():
    image, layout = torch.rand(1, 3, 16, 16) * 2 - 1, torch.rand(1, 7, 16, 16)
    pictures = component_pictures(image, layout, [0.4] + [0.1] * 19)  # of 20 axes the layout has 7
    sheet = make_layout_sheet(["a.jpg"], pictures, "")
    line = HEAD + SIDE + HEAD
    assert len(pictures) == 9 and sheet.size == (6 * (SIDE + GAP_PIXELS) + GAP_PIXELS, 2 * line)
    for number, images in enumerate(pictures.values()):
        assert (tile(sheet, 0, number % 6, number // 6 * line) == pixels(images[0])).all()


def test_components_of_several_photos_stand_side_by_side():
    images, layouts = torch.rand(3, 3, 16, 16) * 2 - 1, torch.rand(3, 2, 16, 16)
    pictures = component_pictures(images, layouts, [0.6, 0.4])
    sheet = make_layout_sheet(["a.jpg", "b.jpg", "c" * 99], pictures, "legend")
    assert sheet.width == 3 * (SIDE + GAP_PIXELS) + GAP_PIXELS
    for row, columns in enumerate(pictures.values()):
        for column, image in enumerate(columns):
            assert (tile(sheet, row, column) == pixels(image)).all()


@pytest.mark.parametrize("is_shared", [True, False])
def test_comparison_has_a_column_per_grid_and_an_image_once_if_all_share_it(is_shared, tmp_path):
    grids, sources = {}, {}
    for name in ("CLIP", "DINO"):
        image = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0 if is_shared else len(sources)))
        samples = [torch.rand(2, 3, 16, 16) * 2 - 1 for _ in range(3)]
        columns = preview_columns(image * 2 - 1, torch.rand(2, 3, 16, 16), samples)
        save_grid(
            make_grid(columns, ["a house", "a tree"]), ["a house", "a tree"], tmp_path / f"{name}.png", list(columns)
        )
        grids[name], sources[name] = load_grid(tmp_path / f"{name}.png", 5), [*columns.values()]
    sheet = make_comparison_sheet(grids)
    assert sheet.width == (2 + is_shared) * (SIDE + GAP_PIXELS) + GAP_PIXELS
    for column, columns in enumerate(sources.values()):
        for kind in range(1, 4):  # layout and two samples of the first image
            shown = tile(sheet, kind - is_shared, column + is_shared)
            assert (shown == pixels(columns[kind][0])).all()
    assert (tile(sheet, 0, 0) == pixels(sources["CLIP"][0][0])).all()


def test_comparison_takes_grids_of_one_image_and_of_older_versions():
    picture = make_grid(preview_columns(torch.zeros(1, 3, 160, 160), torch.ones(1, 3, 4, 4), []), [""])
    tiles = [picture.crop((x, HEAD, x + SIDE, HEAD + SIDE)) for x in (GAP_PIXELS, 2 * GAP_PIXELS + SIDE)]
    sheet = make_comparison_sheet({"one": Grid([tiles], [""], []), "two": Grid([tiles], ["other"], [])})
    assert (tile(sheet, 0, 0) == 128).all() and (tile(sheet, 0, 2) == 255).all()
