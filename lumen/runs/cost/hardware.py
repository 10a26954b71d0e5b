"""Peak FLOP/s of GPUs, by their data sheets, and of this CPU, by measurement."""

import time
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class PeakFlops:
    """FLOP/s of dense products: in half precision on tensor cores, and in single precision without them."""

    half: float
    single: float


# NVIDIA's data sheets and architecture white papers: bf16 with fp32 accumulation, without sparsity; fp32 without TF32.
GPUS = {
    "H200": PeakFlops(989e12, 67e12),
    "H100": PeakFlops(989e12, 67e12),
    "A100": PeakFlops(312e12, 19.5e12),
    "L40S": PeakFlops(362e12, 91.6e12),
    "RTX 4090": PeakFlops(165e12, 82.6e12),
    "RTX 3090": PeakFlops(71e12, 35.6e12),
    "RTX 4070 Ti": PeakFlops(80e12, 40.1e12),
}

CPU = "this CPU"

# Share of the peak that these models reach. NVIDIA NeMo's ControlNet page: 18 to 30 % of an A100; mosaicml/diffusion:
# 28 %; images generated in batches, the diffusers documentation: up to 39 %.
TYPICAL_UTILISATION = (0.4, 0.2)


def detect_gpu() -> str | None:
    """Return the key in `GPUS` of this machine's GPU; None if there is none, or an unknown one."""
    name = torch.cuda.get_device_name(0) if torch.cuda.is_available() else ""
    return next((key for key in GPUS if key in name), None)


def measure_cpu(seconds: float = 0.2, side: int = 768) -> float:
    """Return the FLOP/s of a product of two square matrices in fp32 on this CPU: the best within some seconds."""
    a, b = torch.rand(side, side), torch.rand(side, side)
    end, best = time.perf_counter() + seconds, float("inf")
    while (start := time.perf_counter()) < end:
        a @ b
        best = min(best, time.perf_counter() - start)
    return 2 * side**3 / best


def list_devices(accelerator: str, precision: str) -> dict[str, float]:
    """Return the FLOP/s of this machine's GPU, or of this CPU beside those of GPUs, by a name with their origin.

    Args:
        accelerator: That of the config; a run on the CPU has no GPUs beside it.
        precision: Lightning's name of the precision.
    """
    gpu = detect_gpu()
    names = [gpu] if gpu else GPUS if accelerator != "cpu" else []
    peaks = {name: GPUS[name].single if precision == "32-true" else GPUS[name].half for name in names}
    devices = {f"{name}: {peak / 1e12:.0f} TFLOP/s by its data sheet": peak for name, peak in peaks.items()}
    if not torch.cuda.is_available():
        rate = measure_cpu()
        devices[f"{CPU}: {rate / 1e9:.0f} GFLOP/s, measured on a product"] = rate
    return devices
