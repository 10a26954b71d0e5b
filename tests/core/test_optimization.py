"""Schedules of the learning rate: those of diffusers, after a warmup that does not begin at zero."""

import pytest
import torch
from diffusers.optimization import get_scheduler

from lumen.config.experiment import dump, load
from lumen.config.identity import config_digest
from lumen.core.interfaces import Optimization, Task
from lumen.core.registry import tasks

STEPS = 12
SCHEDULES = ("constant", "linear", "cosine")


def optimizer():
    return torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=1e-3)


def learning_rates(scheduler):
    """Return the learning rate of each step."""
    rates = []
    for _ in range(STEPS):
        rates.append(scheduler.optimizer.param_groups[0]["lr"])
        scheduler.optimizer.step()
        scheduler.step()
    return rates


def schedule_rates(warmup=0, default="constant", **options):
    optimization = Optimization(1e-3, warmup, steps=STEPS, **options)
    return learning_rates(optimization.schedule(optimizer(), default)["lr_scheduler"]["scheduler"])


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedule_of_the_learning_rate_is_that_of_diffusers(name):
    expected = learning_rates(get_scheduler(name, optimizer(), num_warmup_steps=0, num_training_steps=STEPS))
    rates = schedule_rates(lr_schedule=name)
    assert rates == pytest.approx(expected, rel=1e-12)
    ramp = [min(1, (step + 1) / 4) for step in range(STEPS)]
    assert schedule_rates(4, lr_schedule=name) == pytest.approx([a * b for a, b in zip(ramp, rates, strict=True)])
    assert schedule_rates(4, name) == schedule_rates(4, lr_schedule=name)


def test_schedule_of_the_learning_rate_reaches_the_optimizer(tmp_path):
    for flags, expected in (([], "auto"), (["lr_schedule=linear"], "linear")):
        config = load("scenes", flags)
        assert config.lr_schedule == expected
    assert config_digest(dump(config)) != config_digest(dump(load("scenes", [])))
    task = Task(Optimization(1e-3, 0, steps=STEPS, lr_schedule="linear"))
    task.weight = torch.nn.Parameter(torch.zeros(1))
    task.trainer = None
    rates = learning_rates(task.configure_optimizers()["lr_scheduler"]["scheduler"])
    assert rates == schedule_rates(lr_schedule="linear")


def test_schedule_of_prediction_is_linear_and_no_part_of_the_recipe_then():
    def build(name):
        optimization = Optimization(1e-3, 0, steps=STEPS, lr_schedule=name)
        return tasks.build("segmentation", size="tiny", classes=("a", "b"), optimization=optimization)

    recipes = {name: build(name).protocol()["recipe"] for name in ("auto", *SCHEDULES)}
    assert recipes["auto"] == recipes["linear"] and "lr_schedule" not in recipes["auto"]
    assert recipes["cosine"] == recipes["auto"] | {"lr_schedule": "cosine"}
    rates = learning_rates(build("auto").configure_optimizers()["lr_scheduler"]["scheduler"])
    assert rates == schedule_rates(lr_schedule="linear")
