"""What processors can compute at most: a few GPUs by their data sheets, this CPU by a product that is timed."""

import time
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Speed:
    """FLOP/s of dense products: in half precision on tensor cores, and in single without them."""

    half: float
    single: float


# NVIDIA's data sheets and architecture white papers: bf16 with fp32 accumulation, without sparsity; fp32 without TF32.
GPUS = {
    "H200": Speed(989e12, 67e12),
    "H100": Speed(989e12, 67e12),
    "A100": Speed(312e12, 19.5e12),
    "L40S": Speed(362e12, 91.6e12),
    "RTX 4090": Speed(165e12, 82.6e12),
    "RTX 3090": Speed(71e12, 35.6e12),
    "RTX 4070 Ti": Speed(80e12, 40.1e12),
}

# What training of this family of models reaches of them. NVIDIA NeMo's ControlNet page: 18 to 30 % of an A100's;
# mosaicml/diffusion: 28 %; images painted in batches, the diffusers documentation: up to 39 %.
REACHED = (0.4, 0.2)


def present() -> str | None:
    """The GPU of this machine by its name above; None where there is none, or one that is not known."""
    name = torch.cuda.get_device_name(0) if torch.cuda.is_available() else ""
    return next((known for known in GPUS if known in name), None)


def this_cpu(seconds: float = 0.2, side: int = 768) -> float:
    """FLOP/s of a product of two square matrices in single precision on this CPU, now: the best of a short while."""
    a, b = torch.rand(side, side), torch.rand(side, side)
    end, best = time.perf_counter() + seconds, float("inf")
    while (start := time.perf_counter()) < end:
        a @ b
        best = min(best, time.perf_counter() - start)
    return 2 * side**3 / best
