"""Cells of the probe data set: their class shares, features and targets against direct computation."""

import numpy as np
import pytest
import torch

from lumen.core.interfaces import IGNORE, Batch
from lumen.evaluation.probe_dataset import cell_targets, class_shares, gradient_magnitude, unshuffle_to_grid


@pytest.mark.parametrize("grid", [(4, 4), (3, 5)])
def test_cell_class_shares_equal_counts(grid):
    mask = torch.randint(5, (2, 12, 16), generator=torch.Generator().manual_seed(0))
    mask[mask == 4] = IGNORE
    shares = class_shares(mask, grid, 4)
    y, x = np.arange(12) * grid[0] // 12, np.arange(16) * grid[1] // 16
    for b, i, j, k in np.ndindex(2, *grid, 5):
        cell = mask[b].numpy()[y == i][:, x == j]
        assert float(shares[b, k, i, j]) == pytest.approx((cell == (IGNORE if k == 4 else k)).mean(), abs=1e-6)


def test_cell_features_keep_every_value_of_a_layout():
    layout = torch.rand(2, 3, 12, 8)
    features = unshuffle_to_grid(layout, (3, 2))
    assert features.shape == (2, 48, 3, 2)
    assert torch.equal(features[1, :, 2, 1].sort().values, layout[1, :, 8:, 4:].flatten().sort().values)
    assert unshuffle_to_grid(torch.rand(1, 2, 37, 37), (32, 32)).shape == (1, 8, 32, 32)


def test_cell_targets_of_a_ramp():
    image = (torch.arange(8.0) / 10).expand(2, 3, 8, 8)  # brighter by 0.1 per pixel to the right
    mask = torch.full((2, 8, 8), IGNORE)
    mask[:, :, 5:] = 2
    depth = torch.full((8, 8), np.e)
    depth[:4], depth[7] = torch.inf, torch.inf
    targets = cell_targets(Batch(image, ["", ""], ["a", "b"], mask, {"depth": [depth, None]}), (2, 2), 3)
    assert torch.allclose(targets["colour"][0, 0], torch.tensor([0.15, 0.55]).expand(2, 2))
    assert torch.allclose(gradient_magnitude(image)[..., 1:-1], torch.tensor(0.1))
    assert targets["label"][1, 0].tolist() == [[IGNORE, 2]] * 2
    first, second = targets["depth"][:, 0]
    assert first[1].tolist() == pytest.approx([1, 1]) and first[0].isnan().all() and second.isnan().all()
