"""DDIM inversion (Song et al. 2021, arXiv:2010.02502): from the latents of an image to noise that leads back to it."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from diffusers import DDIMScheduler
from jaxtyping import Float
from torch import Tensor


def invert_ddim(
    predict: Callable[[Tensor, Tensor], Tensor], schedule: Any, z: Float[Tensor, "b z h w"], timesteps: list[int]
) -> Iterator[tuple[int, Float[Tensor, "b z h w"]]]:
    """Yield each timestep with the noisy latents there.

    A step from noise level s to t takes the noise that is predicted at t for the latents at s:

        z_t = sqrt(alpha_t) x0 + sqrt(1 - alpha_t) eps   with   x0 = (z_s - sqrt(1 - alpha_s) eps) / sqrt(alpha_s)

    Args:
        predict: Function of (noisy latents, timestep) that returns the prediction.
        schedule: Config of the noise schedule.
        z: Latents without noise.
        timesteps: Ascending.
    """
    scheduler = DDIMScheduler.from_config(schedule)
    alpha_before = float(scheduler.final_alpha_cumprod)
    for t, t_device in zip(timesteps, torch.tensor(timesteps).to(z.device), strict=True):
        predicted = predict(z, t_device).to(z.dtype)
        signal, noise = alpha_before**0.5, (1 - alpha_before) ** 0.5
        if scheduler.config.prediction_type == "v_prediction":
            x0, eps = signal * z - noise * predicted, signal * predicted + noise * z
        else:
            x0, eps = (z - noise * predicted) / signal, predicted
        alpha_before = float(scheduler.alphas_cumprod[t])
        z = alpha_before**0.5 * x0 + (1 - alpha_before) ** 0.5 * eps
        yield t, z
