"""Recipes of the pipeline: the saved pipeline loads like any other, and a training resumes."""

import pytest
import torch
from torch import nn

from lumen.core.errors import Diverged
from lumen.diffusion import loading
from lumen.scenes.recipes import trainer
from lumen.scenes.recipes.__main__ import main
from lumen.scenes.recipes.trainer import ResumableTraining

SMALL = ["steps=2", "batch=2", "images=8", "held_out=4"]


def test_pipeline_of_a_recipe_loads_like_any_other(tmp_path, capsys):
    directories = [f"out={tmp_path / 'sd'}", f"work={tmp_path / 'work'}"]
    assert main(["unet", *SMALL, *directories]) == 2
    assert "run the recipe vae" in capsys.readouterr().err
    assert main(["vae", *SMALL, *directories]) == main(["unet", *SMALL, *directories]) == 0
    parts = loading.load(str(tmp_path / "sd"), "tiny")
    text = parts.encode_prompts(["a red ball on grass", "Zürich, 東京 q"])
    noisy = torch.randn(2, 4, 16, 16)
    assert parts.downscale == 4 and parts.unet(noisy, 10, text).sample.shape == noisy.shape
    assert len(parts.unet.up_blocks) == 4 and all(len(block.resnets) == 3 for block in parts.unet.up_blocks)
    assert parts.tokenizer.unk_token_id not in parts.tokenizer("Zürich, 東京 q").input_ids[1:-1]
    assert "| PSNR, dB, test seeds |" in (tmp_path / "sd" / "vae" / "README.md").read_text()
    assert "| loss, test seeds |" in (tmp_path / "sd" / "README.md").read_text()
    capsys.readouterr()
    assert main(["unet", "steps=3", *SMALL[1:], *directories]) == 0
    assert "step 2" in (output := capsys.readouterr().out) and "steps: 3" in output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["segmentr"], "did you mean 'segmenter'"),
        ([], "Available: clip, depth"),
        (["vae", "step=3"], "did you mean 'steps'"),
        (["vae", "steps=many"], "steps is 'many'"),
    ],
)
def test_recipe_command_reports_mistakes(arguments, message, capsys):
    assert main(arguments) == 2
    assert message in capsys.readouterr().err


def test_resumed_training_equals_an_uninterrupted_one(tmp_path, monkeypatch):
    def train(state_file, stop=None):
        torch.manual_seed(1)
        network, calls = nn.Linear(4, 1), []

        def loss():
            calls.append(1)
            if len(calls) == stop:
                raise KeyboardInterrupt
            return network(torch.randn(8, 4)).square().mean()

        training = ResumableTraining(state_file, steps=6, batch=8, learning_rate=0.1, warmup_steps=2)
        return training.run(network, loss), network.weight

    monkeypatch.setattr(trainer, "SAVE_INTERVAL_S", 0)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "interrupted.pt", stop=4)
    metrics, resumed = train(tmp_path / "interrupted.pt")
    expected_metrics, uninterrupted = train(tmp_path / "uninterrupted.pt")
    assert torch.equal(resumed, uninterrupted) and metrics["steps"] == expected_metrics["steps"] == 6
    assert metrics["images seen"] == 48


def test_training_ends_if_the_loss_is_not_finite(tmp_path):
    network = nn.Linear(1, 1)
    with pytest.raises(Diverged, match="lower rate="):
        training = ResumableTraining(tmp_path / "state.pt", 3, 1, 0.1)
        training.run(network, lambda: network(torch.ones(1, 1)).sum() / 0)
    assert not (tmp_path / "state.pt").exists()
