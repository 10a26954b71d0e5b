"""DDIM inversion: noise that every sampler leads back to the latents."""

import pytest
import torch
from diffusers import DDIMScheduler

from lumen.diffusion.inversion import invert_ddim
from lumen.diffusion.sampling import SAMPLERS, build_sampler, run_steps


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("sampler", sorted(SAMPLERS))
def test_inversion_leads_back_to_the_latents(pipeline, sampler, prediction):
    schedule = DDIMScheduler.from_config(pipeline.scheduler.config, prediction_type=prediction).config
    scheduler = build_sampler(schedule, sampler, 300)
    z = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))

    def predict(noisy, t, progress=0.0):
        return 0.5 * noisy + 0.1 * torch.sin(noisy.flip(1))

    timesteps = sorted({*scheduler.timesteps.tolist(), *range(1, 1000)} - {*range(scheduler.timesteps[0] + 1, 1001)})
    noisy = dict(invert_ddim(predict, schedule, z, timesteps))
    assert list(noisy) == timesteps and not torch.allclose(noisy[timesteps[-1]], z, atol=0.1)
    assert torch.allclose(run_steps(predict, scheduler, noisy[timesteps[-1]], 1.0), z, atol=0.05)
