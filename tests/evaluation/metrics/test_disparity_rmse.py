"""Disparity RMSE against numpy, in pixels of the original frames."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lumen.core.interfaces import Batch
from lumen.core.registry import metrics


def batch_of(disparity, **extra):
    names = [f"image {number}" for number in range(len(disparity))]
    return Batch(torch.zeros(len(disparity), 3, 4, 4), names, names, extra={"disparity": disparity} | extra)


def test_rmse_equals_numpy_over_all_pixels_together():
    truth = torch.tensor([[0.0, -1.0, 80.0, 79.9, 1e-3], [float("nan"), 5.0, 40.0, 79.0, float("inf")]])[:, None]
    guess = torch.tensor([[9.0, 9.0, 9.0, 70.0, -3.0], [9.0, 0.0, 41.0, 75.0, 9.0]])[:, None]
    metric = metrics.build("disparity_rmse")
    scores = metric.score(batch_of([*truth]), guess[:, None])
    counts = (truth > 0) & (truth < 80)
    clipped = np.where(guess > 0, guess, 1e-9)
    expected = np.sqrt(np.square(clipped - truth.double().numpy())[counts].mean())
    assert counts.sum() == 5 and float(metric.aggregate(scores)) == pytest.approx(expected, rel=1e-12)
    # The mean over images is another number.
    assert float(metric.image_values(scores).mean()) != pytest.approx(expected, rel=1e-3)
    assert metric.columns((2,)) == ["squared_error", "pixels"] and scores[:, 1].tolist() == [2, 3]


def test_rmse_is_that_of_the_original_frame_whatever_the_size_of_images():
    rng = torch.Generator().manual_seed(0)
    truth, guess = (100 * torch.rand(3, 4, 6, generator=rng) for _ in range(2))
    metric = metrics.build("disparity_rmse")
    expected = metric.aggregate(metric.score(batch_of([*truth]), guess[:, None]))
    frames = [SimpleNamespace(scale=scale) for scale in (0.25, 0.5, 1.0)]
    scales = torch.tensor([frame.scale for frame in frames])[:, None, None]
    batch = batch_of([*(truth * scales)], frame=frames)
    assert torch.allclose(metric.aggregate(metric.score(batch, (guess * scales)[:, None])), expected, rtol=1e-6)


def test_rmse_leaves_out_images_without_a_file_and_takes_several_outputs():
    truth, guess = torch.full((2, 3, 3), 10.0), torch.stack([torch.full((3, 3), 12.0), torch.full((3, 3), 14.0)])
    metric = metrics.build("disparity_rmse")
    scores = metric.score(batch_of([truth[0], None]), torch.stack([guess, guess]))
    assert float(metric.aggregate(scores)) == pytest.approx(np.sqrt((4 + 16) / 2)) and scores[1].tolist() == [0, 0]
