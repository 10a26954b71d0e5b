"""Quality command: metrics of every small model beside their required values."""

from importlib import import_module

import pytest

from lumen.scenes.recipes import NAMES, quality
from lumen.scenes.recipes.quality import REQUIREMENTS, Requirement


@pytest.mark.parametrize(
    ("requirement", "verdicts"),
    [
        (Requirement("vae", "PSNR, dB", 26, 30), {25.9: "MISSED", 26: "met", 29.9: "met", 30: "goal met"}),
        (Requirement("depth", "SI", 12, 6), {12.1: "MISSED", 12: "met", 6.1: "met", 6: "goal met"}),
    ],
)
def test_requirement_verdict_depends_on_the_better_direction(requirement, verdicts):
    assert {value: requirement.verdict(value) for value in verdicts} == verdicts


@pytest.mark.parametrize("name", NAMES)
def test_recipe_has_train_evaluate_and_notes(name):
    recipe = import_module(f"lumen.scenes.recipes.{name}")
    assert callable(recipe.train) and callable(recipe.evaluate) and recipe.TRAINING_NOTES.strip()


def test_quality_command_fails_if_a_requirement_is_missed(monkeypatch, capsys):
    metrics = {requirement.recipe: {} for requirement in REQUIREMENTS}
    for requirement in REQUIREMENTS:
        metrics[requirement.recipe][requirement.metric] = requirement.goal
    for name, values in metrics.items():
        monkeypatch.setattr(f"lumen.scenes.recipes.{name}.evaluate", lambda directory, work, values=values: values)
    assert quality.main() == 0 and capsys.readouterr().out.count("goal met") == len(REQUIREMENTS)
    metrics["depth"]["SI"] = 99
    assert quality.main() == 1 and "| depth | SI | 99 | 8.5 | 6 | MISSED |" in capsys.readouterr().out
