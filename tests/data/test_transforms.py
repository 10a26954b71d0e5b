"""Transforms: crops fill the square, and label ids are never interpolated."""

import numpy as np
from PIL import Image

from lumen.core.random import generator
from lumen.data.transforms import CropTransform, crop_to_square, sample_window


def test_crop_transform_keeps_proportions_and_fills_the_square():
    for size in [(640, 480), (480, 640), (33, 100), (512, 512), (1000, 999)]:
        transform = crop_to_square(size, 96)
        left, upper, right, lower = transform.window
        assert (right - left, lower - upper) == (96, 96) and min(transform.resized) == 96
        assert left >= 0 and upper >= 0 and right <= transform.resized[0] and lower <= transform.resized[1]
        assert abs(transform.resized[0] / transform.resized[1] - size[0] / size[1]) < 0.02 * size[0] / size[1]


def test_crop_transform_does_not_interpolate_label_ids():
    mask = Image.fromarray(np.tile(np.array([0, 170], np.uint8), (40, 20)))
    resized = CropTransform((40, 40), (17, 23), (0, 0, 17, 23)).apply(mask)
    assert set(np.unique(resized)) <= {0, 170}


def test_crop_window_is_uniform_over_positions():
    windows = [sample_window((64, 32), (32, 32), generator("place", i)) for i in range(400)]
    assert {window[0] for window in windows} == set(range(33)) and {window[1] for window in windows} == {0}
