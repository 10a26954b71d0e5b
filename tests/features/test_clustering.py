"""k-means: against scikit-learn, in a fixed order, and with clusters that stay empty."""

import numpy as np
import torch
from sklearn.cluster import KMeans

from lumen.features.clustering import Clusters, fit_means


def blobs(sizes=(30, 50, 20), spread=0.1):
    random = np.random.default_rng(0)
    centres = random.normal(size=(len(sizes), 5)) * 4
    parts = [centre + spread * random.normal(size=(size, 5)) for centre, size in zip(centres, sizes, strict=True)]
    return torch.from_numpy(np.concatenate(parts)).float()


def test_cluster_means_equal_those_of_scikit_learn_by_size():
    vectors = blobs()
    expected = KMeans(3, n_init=10, random_state=0).fit(vectors.numpy())
    order = np.argsort(-np.bincount(expected.labels_))
    means = fit_means(vectors, 3, seed=0)
    np.testing.assert_allclose(means.numpy(), expected.cluster_centers_[order], atol=1e-5)
    shuffled = vectors[torch.randperm(100, generator=torch.Generator().manual_seed(1))]
    torch.testing.assert_close(fit_means(shuffled, 3, seed=1), means)


def test_clusters_of_too_few_different_vectors_stay_empty():
    vectors = blobs(spread=0.0)
    means = fit_means(vectors, 6, seed=0)
    assert means.isfinite().all() and len(means.unique(dim=0)) == 3


def test_clusters_see_no_shift_of_an_image_that_is_centred():
    maps = blobs((64, 64)).view(2, 8, 8, 5).permute(0, 3, 1, 2).contiguous()
    clusters = Clusters(2, 5, centre=True)
    assert not clusters.fitted
    clusters.fit(maps, seed=0)
    shifted = maps + torch.arange(5.0)[:, None, None]
    assert clusters.fitted and torch.equal(clusters.assign(shifted, (8, 8)), clusters.assign(maps, (8, 8)))
    clusters.centre = False
    assert not torch.equal(clusters.assign(shifted + 9, (8, 8)), clusters.assign(maps, (8, 8)))
