"""Canny edges against OpenCV."""

import cv2
import numpy as np
import pytest
import torch

from lumen.core.interfaces import Batch


@pytest.mark.parametrize("thresholds", [(100, 200), (20, 60)])
def test_canny_equals_opencvs(thresholds, scenes, scene_bytes, build, fitted):
    layout = build("canny", low=thresholds[0], high=thresholds[1])(scenes)
    for i, image in enumerate(scene_bytes):
        assert np.array_equal(layout[i, 0] * 255, cv2.Canny(np.ascontiguousarray(image), *thresholds))
    assert fitted("canny")(scenes).unique().tolist() == [0, 1]


@pytest.mark.parametrize(("step", "has_edge"), [(20, False), (40, False), (60, True)])
def test_canny_thresholds_are_grey_levels_of_a_sobel_gradient(step, has_edge, fitted):
    image = torch.full((1, 3, 16, 16), 50.0)
    image[..., 8:] += step  # a gradient of 4 steps: the second is above 100, only the third above 200
    assert bool(fitted("canny")(Batch(image / 127.5 - 1, [""], ["a"])).any()) == has_edge
