"""Bootstrap: resamples equal those that are aggregated one by one, and equal rows are aggregated once."""

import pytest
import torch

from lumen.core.bootstrap import bootstrap_resamples
from lumen.core.random import generator


@pytest.mark.parametrize("images", [1, 2, 3, 20])
def test_bootstrap_equals_a_loop_over_all_resamples(images):
    scores, sizes = torch.rand(images, 3, generator=torch.Generator().manual_seed(0)), []

    def aggregate(rows):
        sizes.append(len(rows))
        return (rows.cumsum(0) / rows.sum()).square().mean()  # it depends on the order

    resamples = bootstrap_resamples(aggregate, scores, 400)
    assert set(sizes) == {images} and len(sizes) <= images**images
    rows = torch.randint(images, (400, images), generator=generator("bootstrap"))
    assert torch.equal(resamples, torch.stack([aggregate(scores[index]) for index in rows]).double())
