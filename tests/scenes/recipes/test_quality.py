"""The quality command: every small model against what it must reach."""

from importlib import import_module

import pytest

from lumen.scenes.recipes import NAMES, quality
from lumen.scenes.recipes.quality import BARS, Bar


@pytest.mark.parametrize(
    ("bar", "verdicts"),
    [
        (Bar("vae", "PSNR, dB", 26, 30), {25.9: "MISSED", 26: "met", 29.9: "met", 30: "goal met"}),
        (Bar("depth", "SI", 12, 6), {12.1: "MISSED", 12: "met", 6.1: "met", 6: "goal met"}),
    ],
)
def test_a_verdict_knows_which_way_is_better(bar, verdicts):
    assert {value: bar.verdict(value) for value in verdicts} == verdicts


@pytest.mark.parametrize("name", NAMES)
def test_every_recipe_trains_and_measures(name):
    recipe = import_module(f"lumen.scenes.recipes.{name}")
    assert callable(recipe.train) and callable(recipe.measure) and recipe.LEARNT.strip()


def test_a_missed_bar_is_told_and_fails(monkeypatch, capsys):
    reached = {bar.recipe: {} for bar in BARS}
    for bar in BARS:
        reached[bar.recipe][bar.figure] = bar.goal
    for name, figures in reached.items():
        monkeypatch.setattr(f"lumen.scenes.recipes.{name}.measure", lambda folder, work, figures=figures: figures)
    assert quality.main() == 0 and capsys.readouterr().out.count("goal met") == len(BARS)
    reached["depth"]["SI"] = 99
    assert quality.main() == 1 and "| depth | SI | 99 | 12 | 6 | MISSED |" in capsys.readouterr().out
