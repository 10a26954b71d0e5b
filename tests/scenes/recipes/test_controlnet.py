"""Recipe of the run that comes with LUMEN: trained by a command, copied in half precision, loaded like any run."""

import json

import pytest
import torch
from safetensors.torch import load_file

from lumen.config.experiment import reload
from lumen.core.interfaces import Batch
from lumen.runs.directory import load_run_config
from lumen.runs.sample import load_task
from lumen.scenes.recipes.__main__ import main


@pytest.mark.long
def test_recipe_trains_and_copies_a_run_that_loads(tmp_path, capfd, forking):
    words = ["controlnet", f"out={tmp_path / 'out'}", f"work={tmp_path / 'work'}", "batch=2", "images=8", "held_out=2"]
    assert main([*words, "steps=0"]) == 2 and not (tmp_path / "out").exists()
    assert "steps" in (message := capfd.readouterr().err) and "ended with code 2" in message
    assert main([*words, "steps=2"]) == 0
    names = ["README.md", "config.yaml", "metrics.json", "weights.safetensors"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == names
    text = (tmp_path / "out" / "config.yaml").read_text()
    assert str(tmp_path) not in text and "controlnet steps=2 batch=2" in (tmp_path / "out" / "README.md").read_text()
    results = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert f"| miou | {round(results['test/miou'], 4)} |" in (tmp_path / "out" / "README.md").read_text()
    tensors = load_file(tmp_path / "out" / "weights.safetensors")
    kinds = {name.startswith("conditioning.") for name, tensor in tensors.items() if tensor.dtype == torch.float32}
    assert kinds == {True}
    task = load_task(tmp_path / "out", reload(load_run_config(tmp_path / "out"), ["accelerator=cpu"]))
    batch = Batch(torch.zeros(1, 3, 64, 64), ["a house"], ["zeros"])
    assert torch.isfinite(task.outputs(batch, [[1]], steps=2)).all()
