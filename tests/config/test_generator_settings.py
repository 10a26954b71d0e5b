"""Settings that generators require, and those that they bring along."""

import pytest

from lumen.config.components import steering
from lumen.config.experiment import dump, load, reload
from lumen.config.identity import run_name
from lumen.core.errors import BadConfig
from lumen.core.registry import conditionings, generators
from lumen.runs.provenance import describe

NAMES = [name for name in generators.names() if generators.literal(name, "requires", {})]


@pytest.mark.parametrize("name", NAMES)
def test_required_settings_need_no_flag_and_are_no_part_of_the_name(name):
    config = load("scenes", [f"generator={name}"])
    required = generators.literal(name, "requires", {})
    assert config.conditioning["name"] == required["conditioning"]
    assert config.steps == required.get("steps", load("scenes").steps)
    assert run_name(dump(config)) == f"generator={name}"
    assert steering(dump(config)) == describe(config) == f"{name} of {required['conditioning']}"
    assert reload(dump(config), ["measure.images=3"]).conditioning == config.conditioning


@pytest.mark.parametrize("name", NAMES)
def test_other_settings_than_the_required_ones_are_refused(name):
    required = generators.literal(name, "requires", {})
    others = [n for n in conditionings.names() if n != required["conditioning"]]
    for conditioning in others:
        with pytest.raises(BadConfig, match=f"conditioning cannot be {conditioning} with generator={name}"):
            load("scenes", [f"generator={name}", f"conditioning={conditioning}"])
    load("scenes", [f"generator={name}", f"conditioning={required['conditioning']}"])
    if "steps" in required:
        with pytest.raises(BadConfig, match=f"steps cannot be 5 with generator={name}"):
            load("scenes", [f"generator={name}", "steps=5"])


def test_arguments_of_the_required_conditioning_are_set_by_flags():
    assert load("scenes", ["generator=freestyle", "conditioning.form=colours"]).conditioning["form"] == "colours"
    with pytest.raises(BadConfig, match=r"conditioning\.components"):
        load("scenes", ["generator=freestyle", "conditioning.components=5"])


def test_settings_of_a_generator_stand_between_those_of_base_and_of_an_experiment(tmp_path):
    data = ["data.root=/data", "generator=freestyle"]
    assert load("cityscapes", data).lr == 1e-6 and load("cityscapes", data).prompt_dropout == 0
    assert load("cityscapes", [*data, "lr=3e-5"]).lr == 3e-5
    assert load("scenes", ["generator=freestyle"]).lr == load("scenes").lr
    mine = tmp_path / "mine.yaml"
    mine.write_text("data: scenes\ngenerator: freestyle\nconditioning: hed\nlr: 1.0e-4\n")
    with pytest.raises(BadConfig, match="conditioning cannot be hed"):
        load(str(mine))
    mine.write_text("data: scenes\ngenerator: freestyle\nlr: 1.0e-4\n")
    assert load(str(mine)).lr == 1e-4 and load(str(mine)).conditioning["name"] == "segmap"


def test_controlnet_learns_from_no_fewer_steps_than_before():
    with pytest.raises(BadConfig, match="steps"):
        load("scenes", ["steps=0"])
