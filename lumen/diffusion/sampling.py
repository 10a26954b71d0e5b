"""Sampler loop of a latent diffusion model, with classifier-free guidance."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler
from jaxtyping import Float, Int
from torch import Tensor

SAMPLERS = {"ddim": DDIMScheduler, "dpm": DPMSolverMultistepScheduler}
Observer = Callable[[Float[Tensor, "b z h w"]], None]
_observer: ContextVar[Observer | None] = ContextVar("observer", default=None)


@contextmanager
def observe_steps(observer: Observer) -> Iterator[None]:
    """Have a function see after each step of the samplers in this context, by these latents, what the step expects."""
    token = _observer.set(observer)
    try:
        yield
    finally:
        _observer.reset(token)


def run_sampler(
    denoise: Callable[[Tensor, Tensor, float], Tensor],
    schedule: Any,
    shape: tuple[int, ...],
    seeds: list[int],
    device: torch.device,
    sampler: str = "ddim",
    steps: int = 25,
    guidance: float = 7.5,
) -> Float[Tensor, "b z h w"]:
    """Return latents sampled from seeded noise, one per seed.

    Args:
        denoise: Function of (noisy latents, timestep, share of the steps done) that returns the prediction. With
            guidance it gets the latents twice: first for the negative, then for the actual prompt.
        schedule: Config of the noise schedule.
        shape: Of one latent.
        guidance: Scale of classifier-free guidance (Ho and Salimans 2022, arXiv:2207.12598); 1 or less means none.
    """
    scheduler = build_sampler(schedule, sampler, steps)
    z = torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(s)) for s in seeds]).to(device)
    return run_steps(denoise, scheduler, z * scheduler.init_noise_sigma, guidance)


def build_sampler(schedule: Any, sampler: str, steps: int) -> DDIMScheduler | DPMSolverMultistepScheduler:
    """Return a sampler with its timesteps set."""
    # As many steps as there are timesteps are all of them; counted from the first, they would end beyond the last.
    spacing = {"timestep_spacing": "trailing"} if steps == schedule["num_train_timesteps"] else {}
    scheduler = SAMPLERS[sampler].from_config(schedule, **spacing)
    # The timesteps stay on the CPU, where the scheduler reads them: on a GPU it would wait for each step to end.
    scheduler.set_timesteps(steps)
    return scheduler


def run_steps(
    denoise: Callable[[Tensor, Tensor, float], Tensor],
    scheduler: DDIMScheduler | DPMSolverMultistepScheduler,
    z: Float[Tensor, "b z h w"],
    guidance: float,
) -> Float[Tensor, "b z h w"]:
    """Return latents after all steps of a sampler from noisy ones; `denoise` is that of `run_sampler`."""
    guided = guidance > 1
    timesteps, observer = scheduler.timesteps, _observer.get()
    for step, (t, t_device) in enumerate(zip(timesteps, timesteps.to(z.device), strict=True), start=1):
        noisy = scheduler.scale_model_input(torch.cat([z] * 2) if guided else z, t)
        predicted = denoise(noisy, t_device, step / len(timesteps))
        if guided:
            unconditional, conditional = predicted.chunk(2)
            predicted = unconditional + guidance * (conditional - unconditional)
        if observer is not None:
            observer(predict_latents(scheduler, predicted, t, z))
        z = scheduler.step(predicted, t, z, return_dict=False)[0]
    return z


def predict_latents(
    scheduler: DDIMScheduler | DPMSolverMultistepScheduler,
    predicted: Float[Tensor, "b z h w"],
    t: Int[Tensor, ""],
    z: Float[Tensor, "b z h w"],
) -> Float[Tensor, "b z h w"]:
    """Return the latents without noise that a prediction of noise, or of velocity, means for noisy latents."""
    alpha = scheduler.alphas_cumprod[t].to(z)
    if scheduler.config.prediction_type == "v_prediction":
        return alpha.sqrt() * z - (1 - alpha).sqrt() * predicted
    return (z - (1 - alpha).sqrt() * predicted) / alpha.sqrt()
