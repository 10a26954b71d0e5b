"""PCA of 10,000 vectors of 3200 features to 20 axes; differences are angles to the axes in float64."""

from torch import Tensor

from benchmarks.pca_fit_768 import OTHER_PEERS, PEER, TOLERANCE, difference, exact, ours, peer, sample_vectors

__all__ = ["OTHER_PEERS", "PEER", "TOLERANCE", "difference", "exact", "ours", "peer"]

LIBRARIES = ("scikit-learn", "numpy", "scipy", "torch")
ROUNDS = 3
TARGET_SPEEDUP = 2


def inputs(small: bool = False) -> tuple[Tensor]:
    """Return random vectors."""
    return (sample_vectors(*(1000, 600) if small else (10000, 3200)),)
