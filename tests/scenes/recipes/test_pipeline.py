"""Recipes of the pipeline: the saved pipeline loads like any other, and a training resumes."""

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from lumen.core.errors import Diverged
from lumen.diffusion import loading
from lumen.scenes.recipes import trainer
from lumen.scenes.recipes.__main__ import main
from lumen.scenes.recipes.trainer import ResumableTraining

SMALL = ["steps=2", "batch=2", "images=8", "held_out=4"]


@pytest.mark.long
def test_pipeline_of_a_recipe_loads_like_any_other(tmp_path, capsys, monkeypatch):
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
    assert "| VQA accuracy of samples, presence of a " in (tmp_path / "sd" / "README.md").read_text()
    capsys.readouterr()
    monkeypatch.setattr("lumen.scenes.recipes.unet.evaluate", lambda *_: {})
    assert main(["unet", "steps=3", *SMALL[1:], *directories]) == 0
    assert "step 2" in (output := capsys.readouterr().out) and "steps: 3" in output


@pytest.mark.long
def test_pipeline_is_trained_on_elsewhere(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("lumen.scenes.recipes.unet.evaluate", lambda *_: {})
    out = f"out={tmp_path / 'sd'}"
    assert main(["vae", *SMALL, out, f"work={tmp_path / 'work'}"]) == 0
    assert main(["unet", *SMALL, out, f"work={tmp_path / 'work'}"]) == 0
    capsys.readouterr()
    elsewhere = [out, f"work={tmp_path / 'elsewhere'}"]
    assert main(["unet", "steps=3", *SMALL[1:], *elsewhere, f"start={tmp_path / 'work' / 'unet-0.safetensors'}"]) == 0
    assert "step 2" in (output := capsys.readouterr().out) and "steps: 3" in output
    assert main(["unet", "seed=1", *SMALL, *elsewhere, f"start={tmp_path / 'sd'}"]) == 0
    assert main(["unet", "seed=2", *SMALL, *elsewhere, f"start={tmp_path / 'nowhere'}"]) == 2
    assert "give start=" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["segmentr"], "did you mean 'segmenter'"),
        ([], "Available: clip, controlnet, depth"),
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


def test_training_continues_from_weights_with_their_average_and_a_new_warmup(tmp_path):
    def train(name, steps, start=None):
        torch.manual_seed(1)
        network = nn.Linear(4, 1)
        training = ResumableTraining(tmp_path / name, steps, 8, 0.1, warmup_steps=1, decay_share=0.5, start=start)
        return training.run(network, lambda: network(torch.randn(8, 4)).square().mean()), network.weight, training

    _, average, first = train("first.pt", 40)
    raw = load_file(first.weights_file)["weight"].float()
    (metrics, _, second), third = train("second.pt", 41, first.weights_file), load_file(first.weights_file)
    assert metrics["steps"] == 41 and metrics["images seen"] == 41 * 8
    continued = load_file(second.weights_file)
    # The first step of the new optimiser has a five-hundredth of the learning rate or less.
    assert 0 < (continued["weight"].float() - raw).abs().max() <= 0.1 / 500 + 1e-3
    assert torch.allclose(third["average/weight"].float(), average, atol=1e-3) and len(continued["losses"]) == 41


def test_learning_rate_falls_in_the_last_share_alone(tmp_path):
    training = ResumableTraining(tmp_path / "state.pt", 100, 1, 2.0, warmup_steps=10, decay_share=0.2)
    rates = [training._learning_rate(trainer.Progress(step), step / 100) for step in (0, 9, 50, 80, 90, 100)]
    assert rates == pytest.approx([0.2, 2, 2, 2, 1, 0])


def test_training_ends_if_the_loss_is_not_finite(tmp_path):
    network = nn.Linear(1, 1)
    with pytest.raises(Diverged, match="lower rate="):
        training = ResumableTraining(tmp_path / "state.pt", 3, 1, 0.1)
        training.run(network, lambda: network(torch.ones(1, 1)).sum() / 0)
    assert not (tmp_path / "state.pt").exists()
