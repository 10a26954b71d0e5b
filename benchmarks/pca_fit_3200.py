"""PCA of 10,000 vectors of 3200 features to 20 axes; differences are angles to the axes in float64."""

from torch import Tensor

from benchmarks.pca_fit_768 import difference, exact, ours, peer, sample_vectors

__all__ = ["difference", "exact", "ours", "peer"]

PEER = "sklearn's PCA(20), solver auto"
LIBRARIES = ("scikit-learn", "numpy", "scipy", "torch")
ROUNDS = 9
TOLERANCE = 1e-3
TARGET_SPEEDUP = 2.5
BOTTLENECK = (
    "the peer keeps all vectors and estimates a subspace of 30 directions from several passes; moments keep no vector "
    "and add up over processes, but have all 3200 features, in float64"
)


def inputs(small: bool = False) -> tuple[Tensor]:
    """Return random vectors."""
    return (sample_vectors(*(1000, 600) if small else (10000, 3200)),)
