"""A task and a metric of another package: trained, resumed, cached, estimated, tabulated and certified as our own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PLUGIN = Path(__file__).parent / "plugin"
TINY = ["task=label_probe", "size=32", "batch=2", "data.images=12", "validation=4", "workers=0", "warmup=1"]
TINY += ["measure.images=3", "every.log=1", "every.validate=3", "every.checkpoint=3", "ema=0.5", "wandb=offline"]
TINY += ["steps=6", "accelerator=cpu", "backbone.size=tiny", "backbone.weights=none", "cache=always"]

SCRIPT = """
import json, signal, sys
from pathlib import Path
from lumen.__main__ import main
from lumen.core.registry import tasks

flags = sys.argv[1:]
assert {"label_probe", "layout_to_image"} <= {*tasks.names()} and "label_probe_plugin" not in sys.modules
assert main(["show", "scenes", *flags, "--cost"]) == 0
assert main(["train", "scenes", *flags, "runs=whole"]) == 0

probe = tasks.factory("label_probe")
step = probe.training_step

def interrupted(self, batch, batch_idx):
    if self.global_step == 4:
        signal.raise_signal(signal.SIGTERM)
    return step(self, batch, batch_idx)

probe.training_step = interrupted
assert main(["train", "scenes", *flags, "runs=resumed"]) == 75
probe.training_step = step
assert main(["train", "scenes", *flags, "runs=resumed"]) == 0

from lumen.runs.state_hashes import hash_run_state
whole, resumed = (next(Path(runs).glob("scenes/*/seed0")) for runs in ("whole", "resumed"))
assert hash_run_state(whole) == hash_run_state(resumed)
assert main(["table", "table1", "base=scenes", "runs=whole", "rows=DINO", *flags]) == 0
assert main(["train", "scenes", *flags, "metrics=[miou]"]) == 2
assert main(["train", "scenes", *flags, "measure.anchors=[vae]"]) == 2
assert main(["train", "scenes", "metrics=[pixel_accuracy]", "diffusion.weights=none", "steps=1"]) == 2
"""


@pytest.fixture
def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(PLUGIN)}


def test_plugin_task_is_trained_resumed_cached_and_tabulated(workdir, environment):
    command = [sys.executable, "-c", SCRIPT, *TINY]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr[-3000:]
    assert "label_probe of dino" in result.stdout and "| DINO | 0/1 |" in result.stdout
    errors = result.stderr.splitlines()
    assert any("miou" in line and "pixel_accuracy" in line for line in errors)  # what the task can be scored by
    assert any("vae" in line and "constant" in line for line in errors)
    assert any("pixel_accuracy scores labels" in line for line in errors)
    run = next(workdir.glob("whole/scenes/*/seed0"))
    values = json.loads((run / "metrics.json").read_text())
    assert 0 <= values["test/pixel_accuracy"] <= 1 and "constant/pixel_accuracy" in values
    assert json.loads((run / "cache.json").read_text())["cached"] == ["features"]
    assert list((run / "wandb").glob("offline-run-*")) and not (run / "grid.png").exists()


@pytest.mark.long
def test_plugin_task_is_swept(workdir, environment):
    command = [sys.executable, "-m", "lumen", "ablate", "table1", "base=scenes", "rows=CLIP", *TINY]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stdout + result.stderr[-3000:]
    assert result.stdout.count("| 1/1 |") == 1 and "pixel_accuracy" in result.stdout
