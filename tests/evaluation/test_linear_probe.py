"""Linear probes against scikit-learn."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import jaccard_score, r2_score
from sklearn.preprocessing import StandardScaler

from lumen.evaluation.linear_probe import (
    PENALTY,
    class_counts,
    fit_classifier,
    fit_ridge,
    mean_iou,
    r_squared,
    squared_error_sums,
)


@pytest.fixture(scope="module")
def data():
    """Inputs of very different scale, one of them constant, with noisy targets and labels that follow from them."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(10_000, 6)) * [1, 1e-3, 1e3, 1, 1, 0] + [0, 0, 1e4, 0, 0, 7]
    scaled = StandardScaler().fit_transform(x)
    y = scaled @ rng.normal(size=(6, 3)) + rng.normal(size=(10_000, 3)) + 100
    label = (scaled @ rng.normal(size=(6, 4)) + rng.gumbel(size=(10_000, 4))).argmax(1)
    return *(torch.tensor(array, dtype=torch.float32) for array in (x, y)), torch.tensor(label)


def test_ridge_equals_sklearn_on_standardised_inputs(data):
    x, y, _ = data
    scaled = StandardScaler().fit_transform(x.double())
    ridge = Ridge(alpha=len(x) * PENALTY).fit(scaled, y.double())
    assert np.allclose(fit_ridge(x, y)(x), ridge.predict(scaled), atol=1e-6)


def test_classifier_equals_sklearn_logistic_regression(data):
    x, _, label = data
    scaled = StandardScaler().fit_transform(x.double())
    logistic = LogisticRegression(C=1 / (len(x) * PENALTY), tol=1e-8, max_iter=1000).fit(scaled, label)
    probabilities = fit_classifier(x, torch.nn.functional.one_hot(label, 4).float())(x).softmax(1)
    assert np.abs(probabilities.numpy() - logistic.predict_proba(scaled)).max() < 2e-3


def test_probe_scores_equal_sklearn_metrics(data):
    _, y, label = data
    image_index = torch.arange(len(y)) % 7
    prediction = y + torch.randn(y.shape, generator=torch.Generator().manual_seed(0))
    scores = squared_error_sums(y, prediction, image_index, 7)
    assert float(r_squared(scores)) == pytest.approx(r2_score(y, prediction), abs=1e-6)
    prediction = torch.where(image_index < 3, label, 1)
    expected = jaccard_score(label, prediction, average="macro")
    counts = class_counts(label, prediction, image_index, 7, 9)  # 5 classes never occur
    assert float(mean_iou(counts)) == pytest.approx(expected)
