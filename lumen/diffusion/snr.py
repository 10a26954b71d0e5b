"""Loss weights by signal-to-noise ratio."""

import torch
from diffusers import DDPMScheduler
from diffusers.training_utils import compute_snr
from jaxtyping import Float, Int
from torch import Tensor


def predicts_velocity(scheduler: DDPMScheduler) -> bool:
    """Return whether the U-Net predicts velocity instead of noise."""
    return scheduler.config.prediction_type == "v_prediction"


def min_snr_weight(scheduler: DDPMScheduler, timesteps: Int[Tensor, " b"], gamma: float | None) -> Float[Tensor, " b"]:
    """Return min(SNR, gamma) in units of the predicted quantity: / SNR for noise, / (SNR + 1) for velocity.

    Source: Hang et al. 2023, arXiv:2303.09556. Without gamma the weight is 1.
    """
    if gamma is None:
        return torch.ones_like(timesteps, dtype=torch.float32)
    snr = compute_snr(scheduler, timesteps)
    return snr.clamp(max=gamma) / (snr + 1 if predicts_velocity(scheduler) else snr)
