"""Metrics of edits against their definitions in numpy, and their classes."""

from itertools import combinations

import numpy as np
import pytest
import torch

from lumen.core.errors import BadConfig
from lumen.core.interfaces import IGNORE, Batch
from lumen.core.registry import metrics
from lumen.scenes import CLASSES

NOISES, EDITS = 3, 2


@pytest.fixture(scope="module")
def batch():
    mask = torch.zeros(2, 64, 64, dtype=torch.long)
    mask[0, 40:] = 3
    mask[1, 10:30, 10:30], mask[1, :5] = 5, IGNORE
    return Batch(torch.zeros(2, 3, 64, 64), ["", ""], ["a", "b"], mask)


@pytest.fixture(scope="module")
def edits(batch):
    """Edits of class 3 in the first image and of class 5 in the second."""
    images = torch.rand(2, NOISES, 1 + EDITS, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    region = (batch.mask == torch.tensor([3, 5])[:, None, None]).float()
    return torch.cat([images, region[:, None, None, None].expand(2, NOISES, 1 + EDITS, 1, 64, 64)], 3)


def distance(metric, image, other, region):
    """Return the masked distance of two images by its definition: a loop over stages and cells."""
    total, network = 0.0, metric.evaluator
    stages = [network.net(network.scaling_layer(x[None])) for x in (image, other)]
    for a, b in zip(*stages, strict=True):
        a, b = (f[0].double().numpy() for f in (a, b))
        a, b = (f / np.maximum(np.linalg.norm(f, axis=0, keepdims=True), 1e-8) for f in (a, b))
        side = a.shape[1]
        cells = region.double().numpy().reshape(side, 64 // side, side, 64 // side).mean((1, 3))
        total += (((a - b) ** 2).sum(0) * cells).sum() / cells.sum() / len(stages[0])
    return total


@pytest.fixture(scope="module")
def distances(batch, edits):
    """Function of image, (noise, edit), (noise, edit) and region."""
    metric = metrics.build("leak", trunk="scenes", classes=CLASSES)

    def between(i, first, second, is_inside=True):
        region = edits[i, 0, 0, 3] if is_inside else 1 - edits[i, 0, 0, 3]
        return distance(metric, edits[i][first][:3], edits[i][second][:3], region)

    return between


def test_consistency_equals_the_mean_over_pairs_of_noises(batch, edits, distances):
    metric = metrics.build("consistency", trunk="scenes", classes=CLASSES)
    pairs = list(combinations(range(NOISES), 2))
    expected = [
        np.mean([distances(i, (a, k), (b, k)) for a, b in pairs for k in range(1, 1 + EDITS)]) for i in range(2)
    ]
    scores = metric.score(batch, edits)
    assert scores[:, 0].numpy() == pytest.approx(expected, rel=1e-4) and scores[:, 1].tolist() == [3, 5]
    assert metric.key == "consistency-scenes"
    parts = metric.breakdown(scores)
    assert {name: float(part) for name, part in parts.items()} == pytest.approx(
        {CLASSES[3]: expected[0], CLASSES[5]: expected[1]}, rel=1e-4
    )


def test_diversity_equals_the_mean_over_pairs_of_directions(batch, edits, distances):
    metric = metrics.build("diversity", trunk="scenes", classes=CLASSES)
    expected = [[distances(i, (n, 1), (n, 2)) for n in range(NOISES)] for i in range(2)]
    assert metric.score_samples(batch, edits)[..., 0].numpy() == pytest.approx(np.array(expected), rel=1e-4)


def test_leak_equals_the_share_of_the_change_outside(batch, edits, distances):
    metric = metrics.build("leak", trunk="scenes", classes=CLASSES)
    for i in range(2):
        outside, inside = (
            np.mean([distances(i, (0, 0), (0, k), is_inside) for k in range(1, 1 + EDITS)])
            for is_inside in (False, True)
        )
        share = metric.score_samples(batch, edits)[i, 0, 0]
        assert float(share) == pytest.approx((outside + 1e-4) / (inside + 1e-4), rel=1e-4)
    still = edits.clone()
    still[:, :, :, :3] = still[:, :, :1, :3]
    assert float(metric.score(batch, still)[0, 0]) == pytest.approx(1)


def test_named_counts_the_values_of_the_class(batch, edits, monkeypatch):
    metric = metrics.build("named", network="scenes", classes=CLASSES)
    columns = metric.columns_of_class
    assert [len(columns[i]) for i in (0, 3, 5)] == [6, 0, 7]  # skies, nothing of water, colours of balls
    outputs = torch.zeros(2 * NOISES * EDITS, 1 + max(max(c) for c in columns.values() if c))
    rows = outputs.view(2, NOISES, EDITS, -1)
    rows[1, 0, 0, columns[5][2]] = rows[1, 0, 1, columns[5][4]] = 1  # two colours under the first noise, else the first
    rows[1, :, :, columns[0][3]] = 9  # a sky does not count for a ball
    monkeypatch.setattr(type(metric.evaluator), "forward", lambda self, x: outputs)
    scores = metric.score_samples(batch, edits)
    assert scores[0, :, 0].isnan().all() and scores[1, :, 0].tolist() == [2, 1, 1]
    assert float(metric.aggregate(metric.combine(scores))) == pytest.approx(4 / 3)


def test_named_refuses_a_data_set_whose_values_it_does_not_know():
    with pytest.raises(BadConfig, match="knows no values"):
        metrics.build("named", network="scenes", classes=("person", "bicycle"))
