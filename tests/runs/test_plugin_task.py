"""A task and a metric of another package: trained, resumed, cached, estimated, tabulated and swept as our own."""

import json
import signal
import sys

import pytest

from lumen.__main__ import main
from lumen.core.registry import tasks
from lumen.runs.state_hashes import hash_run_state

TINY = ["task=label_probe", "size=32", "batch=2", "data.images=12", "validation=4", "workers=0", "warmup=1"]
TINY += ["measure.images=3", "every.log=1", "every.validate=3", "every.checkpoint=3", "ema=0.5", "wandb=offline"]
TINY += ["steps=6", "accelerator=cpu", "backbone.size=tiny", "backbone.weights=none", "cache=always"]


def test_plugin_task_is_trained_resumed_cached_and_tabulated(plugin, workdir, monkeypatch, capsys):
    assert {"label_probe", "layout_to_image"} <= {*tasks.names()} and "label_probe_plugin" not in sys.modules
    assert main(["show", "scenes", *TINY, "--cost"]) == 0
    assert "label_probe of dino" in capsys.readouterr().out
    assert main(["train", "scenes", *TINY, "runs=whole"]) == 0
    probe = tasks.factory("label_probe")
    step = probe.training_step

    def interrupted(self, batch, batch_idx):
        if self.global_step == 4:
            signal.raise_signal(signal.SIGTERM)
        return step(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(probe, "training_step", interrupted)
        assert main(["train", "scenes", *TINY, "runs=resumed"]) == 75
    assert main(["train", "scenes", *TINY, "runs=resumed"]) == 0
    whole, resumed = (next(workdir.glob(f"{runs}/scenes/*/seed0")) for runs in ("whole", "resumed"))
    assert hash_run_state(whole) == hash_run_state(resumed)
    values = json.loads((whole / "metrics.json").read_text())
    assert 0 <= values["test/pixel_accuracy"] <= 1 and "constant/pixel_accuracy" in values
    assert json.loads((whole / "cache.json").read_text())["cached"] == ["features"]
    assert list((whole / "wandb").glob("offline-run-*")) and not (whole / "grid.png").exists()
    capsys.readouterr()
    assert main(["table", "table1", "base=scenes", "runs=whole", "rows=DINO", *TINY]) == 0
    assert "| DINO | 0/1 |" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["metrics=[miou]"], ("miou", "pixel_accuracy")),  # what the task can be scored by
        (["measure.anchors=[vae]"], ("vae", "constant")),
        (["task=layout_to_image", "metrics=[pixel_accuracy]"], ("pixel_accuracy scores labels",)),
    ],
)
def test_plugin_task_and_metric_belong_together(flags, words, plugin, workdir, capsys):
    assert main(["train", "scenes", *TINY, *flags]) == 2
    message = capsys.readouterr().err
    assert all(word in message for word in words)


@pytest.mark.long
def test_plugin_task_is_swept(plugin, workdir, forking, capsys):
    assert main(["ablate", "table1", "base=scenes", "rows=CLIP", *TINY]) == 0
    output = capsys.readouterr().out
    assert output.count("| 1/1 |") == 1 and "pixel_accuracy" in output
