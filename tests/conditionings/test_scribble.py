"""Scribbles: strokes inside of their regions, whose depth is scipy's chessboard distance."""

import numpy as np
import torch
from scipy.ndimage import distance_transform_cdt

from lumen.conditionings.scribble import region_depth
from lumen.core.interfaces import IGNORE, Batch


def test_region_depth_is_the_chessboard_distance():
    labels = torch.zeros(2, 24, 30, dtype=torch.long)
    labels[0, 5:15, 8:20], labels[1, :, 17:] = 3, 1
    for image, depth in zip(labels, region_depth(labels), strict=True):
        expected = sum(distance_transform_cdt(np.pad(image == c, 1), "chessboard")[1:-1, 1:-1] for c in (0, 1, 3))
        assert np.array_equal(depth.numpy(), expected)


def test_strokes_lie_in_the_middle_of_their_regions(build):
    scribble = build("scribble")
    mask = torch.full((1, 64, 64), IGNORE)
    mask[:, :40], mask[:, 45:60, 10:50] = 0, 4
    strokes = scribble(Batch(None, [""], ["a"], mask))
    assert {0, 4} == {int(c) for c in strokes.sum((0, 2, 3)).nonzero()}
    for c in (0, 4):
        stroke = strokes[0, c].bool()
        assert bool((mask[0][stroke] == c).all()) and 0 < int(stroke.sum()) < 0.2 * int((mask == c).sum())


def test_strokes_are_shorter_for_a_larger_depth(build):
    triangle = torch.ones(64, 64).tril()[None].long() * 4
    lengths = [
        float(build("scribble", depth=depth)(Batch(None, [""], ["a"], triangle)).sum()) for depth in (0.0, 0.5, 1.0)
    ]
    assert lengths[0] > lengths[1] > lengths[2] > 0
