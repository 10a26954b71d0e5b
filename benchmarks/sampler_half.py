"""Latents as in `sampler`, with the layout in the first half of the steps alone."""

from benchmarks.sampler import LIBRARIES, PEER, ROUNDS, ours, peer
from benchmarks.sampler import inputs as sampler_inputs

__all__ = ["LIBRARIES", "PEER", "ROUNDS", "inputs", "ours", "peer"]
TOLERANCE = 1e-4
TARGET_SPEEDUP = 1.3
BOTTLENECK = "half of the steps without the ControlNet are 1.23 times fewer operations, and these are no faster"
MIN_FLOP_RATIO = 1.17


def inputs(small: bool = False) -> tuple:
    """Return the inputs of `sampler` with the layout in half of the steps."""
    return sampler_inputs(small, control_end=0.5)
