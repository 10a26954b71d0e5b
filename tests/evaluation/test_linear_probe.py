"""Linear probes against scikit-learn, and cells against loops over them."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import jaccard_score, r2_score
from sklearn.preprocessing import StandardScaler

from lumen.core.interfaces import IGNORE, Batch
from lumen.evaluation import probe_dataset as cells
from lumen.evaluation.linear_probe import PENALTY, classifier, errors, explained, mean_iou, overlaps, regression


@pytest.fixture(scope="module")
def rows():
    """Numbers of very different size, one of them the same everywhere, and what follows from them with noise."""
    draw = np.random.default_rng(0)
    x = draw.normal(size=(10_000, 6)) * [1, 1e-3, 1e3, 1, 1, 0] + [0, 0, 1e4, 0, 0, 7]
    scaled = StandardScaler().fit_transform(x)
    y = scaled @ draw.normal(size=(6, 3)) + draw.normal(size=(10_000, 3)) + 100
    label = (scaled @ draw.normal(size=(6, 4)) + draw.gumbel(size=(10_000, 4))).argmax(1)
    return *(torch.tensor(each, dtype=torch.float32) for each in (x, y)), torch.tensor(label)


def test_regression_is_ridge_of_standardised_numbers(rows):
    x, y, _ = rows
    scaled = StandardScaler().fit_transform(x.double())
    ridge = Ridge(alpha=len(x) * PENALTY).fit(scaled, y.double())
    assert np.allclose(regression(x, y)(x), ridge.predict(scaled), atol=1e-6)


def test_classifier_is_multinomial_logistic_regression(rows):
    x, _, label = rows
    scaled = StandardScaler().fit_transform(x.double())
    logistic = LogisticRegression(C=1 / (len(x) * PENALTY), tol=1e-8, max_iter=1000).fit(scaled, label)
    found = classifier(x, torch.nn.functional.one_hot(label, 4).float())(x).softmax(1)
    assert np.abs(found.numpy() - logistic.predict_proba(scaled)).max() < 2e-3


def test_figures_of_rows_are_those_of_sklearn(rows):
    _, y, label = rows
    owner = torch.arange(len(y)) % 7
    found = y + torch.randn(y.shape, generator=torch.Generator().manual_seed(0))
    assert float(explained(errors(y, found, owner, 7))) == pytest.approx(r2_score(y, found), abs=1e-6)
    taken = torch.where(owner < 3, label, 1)
    expected = jaccard_score(label, taken, average="macro")
    assert float(mean_iou(overlaps(label, taken, owner, 7, 9))) == pytest.approx(expected)  # 5 classes never come up


@pytest.mark.parametrize("grid", [(4, 4), (3, 5)])
def test_shares_are_counted(grid):
    mask = torch.randint(5, (2, 12, 16), generator=torch.Generator().manual_seed(0))
    mask[mask == 4] = IGNORE
    found = cells.shares(mask, grid, 4)
    y, x = np.arange(12) * grid[0] // 12, np.arange(16) * grid[1] // 16
    for b, i, j, k in np.ndindex(2, *grid, 5):
        inside = mask[b].numpy()[y == i][:, x == j]
        assert float(found[b, k, i, j]) == pytest.approx((inside == (IGNORE if k == 4 else k)).mean(), abs=1e-6)


def test_cells_keep_every_number():
    layout = torch.rand(2, 3, 12, 8)
    kept = cells.in_cells(layout, (3, 2))
    assert kept.shape == (2, 48, 3, 2)
    assert torch.equal(kept[1, :, 2, 1].sort().values, layout[1, :, 8:, 4:].flatten().sort().values)
    assert cells.in_cells(torch.rand(1, 2, 37, 37), (32, 32)).shape == (1, 8, 32, 32)


def test_what_stands_in_a_cell():
    image = (torch.arange(8.0) / 10).expand(2, 3, 8, 8)  # brighter by 0.1 per pixel to the right
    mask = torch.full((2, 8, 8), IGNORE)
    mask[:, :, 5:] = 2
    depth = torch.full((8, 8), np.e)
    depth[:4], depth[7] = torch.inf, torch.inf
    there = cells.shown(Batch(image, ["", ""], ["a", "b"], mask, {"depth": [depth, None]}), (2, 2), 3)
    assert torch.allclose(there["colour"][0, 0], torch.tensor([0.15, 0.55]).expand(2, 2))
    assert torch.allclose(cells.gradient(image)[..., 1:-1], torch.tensor(0.1))
    assert there["label"][1, 0].tolist() == [[IGNORE, 2]] * 2
    assert there["depth"][0, 0, 1].tolist() == pytest.approx([1, 1]) and there["depth"][0, 0, 0].isnan().all()
    assert there["depth"][1].isnan().all()
