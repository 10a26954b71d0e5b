"""A recipe draws, trains, saves what is loaded like any pipeline, and goes on where it was stopped."""

import pytest
import torch
from torch import nn

from lumen.core.errors import Diverged
from lumen.diffusion import stable_diffusion as pipeline
from lumen.scenes.recipes import trainer as courses
from lumen.scenes.recipes.__main__ import main
from lumen.scenes.recipes.trainer import Course

SMALL = ["steps=2", "batch=2", "images=8", "held_out=4"]


def test_a_pipeline_is_trained_and_loads_like_any_other(tmp_path, capsys):
    places = [f"out={tmp_path / 'sd'}", f"work={tmp_path / 'work'}"]
    assert main(["unet", *SMALL, *places]) == 2
    assert "run the recipe vae" in capsys.readouterr().err
    assert main(["vae", *SMALL, *places]) == main(["unet", *SMALL, *places]) == 0
    parts = pipeline.load(str(tmp_path / "sd"), "tiny")
    text = parts.embed(["a red ball on grass", "Zürich, 東京 q"])
    noisy = torch.randn(2, 4, 16, 16)
    assert parts.downscale == 4 and parts.unet(noisy, 10, text).sample.shape == noisy.shape
    assert len(parts.unet.up_blocks) == 4 and all(len(block.resnets) == 3 for block in parts.unet.up_blocks)
    assert parts.tokenizer.unk_token_id not in parts.tokenizer("Zürich, 東京 q").input_ids[1:-1]
    assert "| PSNR, dB, test seeds |" in (tmp_path / "sd" / "vae" / "README.md").read_text()
    assert "| loss, test seeds |" in (tmp_path / "sd" / "README.md").read_text()
    capsys.readouterr()
    assert main(["unet", "steps=3", *SMALL[1:], *places]) == 0
    assert "goes on at step 2" in (said := capsys.readouterr().out) and "steps: 3" in said


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["segmentr"], "did you mean 'segmenter'"),
        ([], "There are: clip, depth"),
        (["vae", "step=3"], "did you mean 'steps'"),
        (["vae", "steps=many"], "steps is 'many'"),
    ],
)
def test_a_mistake_is_one_sentence(words, says, capsys):
    assert main(words) == 2
    assert says in capsys.readouterr().err


def test_a_stopped_training_ends_where_an_undisturbed_one_does(tmp_path, monkeypatch):
    def learnt(state, stop=None):
        torch.manual_seed(1)
        network, seen = nn.Linear(4, 1), []

        def loss():
            seen.append(1)
            if len(seen) == stop:
                raise KeyboardInterrupt
            return network(torch.randn(8, 4)).square().mean()

        return Course(state, steps=6, batch=8, rate=0.1, warm=2).train(network, loss), network.weight

    monkeypatch.setattr(courses, "KEEP", 0)
    with pytest.raises(KeyboardInterrupt):
        learnt(tmp_path / "stopped.pt", stop=4)
    figures, weight = learnt(tmp_path / "stopped.pt")
    whole, undisturbed = learnt(tmp_path / "whole.pt")
    assert torch.equal(weight, undisturbed) and figures["steps"] == whole["steps"] == 6
    assert figures["samples seen"] == 48


def test_a_loss_that_is_not_finite_ends_it(tmp_path):
    network = nn.Linear(1, 1)
    with pytest.raises(Diverged, match="lower rate="):
        Course(tmp_path / "state.pt", 3, 1, 0.1).train(network, lambda: network(torch.ones(1, 1)).sum() / 0)
    assert not (tmp_path / "state.pt").exists()
