"""Recipe of OASIS: a training resumes, its gate is measured, and the saved generator is that of the card."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from lumen.features.oasis import load_oasis
from lumen.scenes.recipes import multimodality
from lumen.scenes.recipes.__main__ import main
from lumen.scenes.recipes.oasis import CONFIG
from lumen.scenes.recipes.trainer import AVERAGE

SMALL = ["batch=2", "images=8", "held_out=24"]


@pytest.mark.long
def test_oasis_recipe_resumes_and_measures_its_gate(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(multimodality, "SCENES", 3)
    monkeypatch.setattr(multimodality, "NOISES", 2)
    monkeypatch.setattr("lumen.scenes.recipes.oasis.STATISTICS_BATCHES", 2)
    out, work = tmp_path / "oasis", tmp_path / "work"
    for steps in (1, 2):
        assert main(["oasis", f"steps={steps}", *SMALL, f"out={out}", f"work={work}"]) == 0
    assert "resumed at step 1" in capsys.readouterr().out
    card = (out / "README.md").read_text()
    for row in (
        "share of it",
        "gate met",
        "skies over 2 noises, of 6",
        "colours over 2 noises, of 7",
        "share of LPIPS",
    ):
        assert f"| {row}, test seeds |" in card
    assert "mode-seeking term" in card
    generator = load_oasis(str(out))
    assert generator.config == CONFIG and (out / "model.safetensors").stat().st_size < 3e6
    average = load_file(work / "oasis-0.safetensors")[f"{AVERAGE}generator.last.bias"]
    assert torch.allclose(generator.last.bias, average.float(), atol=1e-3)
    labels, z = torch.zeros(1, 64, 64, dtype=torch.long), torch.zeros(1, 11, 16)
    assert generator.generate(labels, z).isfinite().all()


def test_colour_deviation_is_that_of_the_mean_colour_of_a_class():
    random = np.random.RandomState(0)
    samples = random.randint(0, 256, (2, 3, 64, 64, 3)).astype(np.uint8)
    labels = np.zeros((2, 64, 64), np.uint8)
    labels[0, 32:], labels[1, :2, :4] = 4, 7  # the last is too small
    deviations = multimodality.colour_deviations(samples, labels)
    top = samples[0, :, :32].astype(float).mean((1, 2)).std(0)
    whole = samples[1][:, labels[1] == 0].astype(float).mean(1).std(0)
    assert deviations[0] == pytest.approx(np.stack([top, whole]).mean())
    assert deviations[4] == pytest.approx(samples[0, :, 32:].astype(float).mean((1, 2)).std(0).mean())
    assert np.isnan(deviations[7]) and np.isnan(deviations[1])
