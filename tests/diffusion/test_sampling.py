"""Sampler loop: any number of steps yields finite latents, and an observer sees what each step expects."""

import pytest
import torch
from diffusers import DDPMScheduler

from lumen.diffusion.sampling import SAMPLERS, build_sampler, observe_steps, predict_latents, run_sampler


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_sampler_takes_any_number_of_steps(sampler, spacing):
    scheduler = DDPMScheduler(beta_schedule="scaled_linear", steps_offset=1, clip_sample=False)
    schedule = {**scheduler.config, "timestep_spacing": spacing, "num_train_timesteps": 20}
    for steps in range(1, 21):
        z = run_sampler(lambda z, t, share: z / 10, schedule, (1, 2, 2), [0], torch.device("cpu"), sampler, steps, 1.0)
        assert bool(z.isfinite().all()), steps


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_observer_sees_the_latents_that_each_step_expects(kind):
    schedule = {**DDPMScheduler(clip_sample=False, prediction_type=kind).config}
    scheduler, z = build_sampler(schedule, "ddim", 4), torch.randn(1, 1, 2, 2)
    t, predicted = scheduler.timesteps[1], torch.randn(1, 1, 2, 2)
    expected = scheduler.step(predicted, t, z).pred_original_sample
    assert torch.allclose(predict_latents(scheduler, predicted, t, z), expected, atol=1e-5)
    observed: list[torch.Tensor] = []
    arguments = (lambda z, t, share: z / 10, schedule, (1, 2, 2), [0], torch.device("cpu"), "dpm", 4, 1.0)
    with observe_steps(observed.append):
        z = run_sampler(*arguments)
    assert len(observed) == 4 and torch.equal(z, run_sampler(*arguments)) and len(observed) == 4
