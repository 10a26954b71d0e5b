"""Sampler loop: every number of steps that a config may ask for yields finite latents."""

import pytest
import torch
from diffusers import DDPMScheduler

from lumen.diffusion.sampling import SAMPLERS, run_sampler


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_sampler_takes_any_number_of_steps(sampler, spacing):
    scheduler = DDPMScheduler(beta_schedule="scaled_linear", steps_offset=1, clip_sample=False)
    schedule = {**scheduler.config, "timestep_spacing": spacing, "num_train_timesteps": 20}
    for steps in range(1, 21):
        z = run_sampler(lambda z, t, share: z / 10, schedule, (1, 2, 2), [0], torch.device("cpu"), sampler, steps, 1.0)
        assert bool(z.isfinite().all()), steps
