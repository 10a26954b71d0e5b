"""lumen certify, for one to four processes, readers, accumulated batches, in the middle of an epoch and at its end."""

import json
import signal
from pathlib import Path

import pytest

from lumen.__main__ import main
from lumen.runs import certify
from lumen.runs.state_hashes import Witness

pytestmark = pytest.mark.long

FLAGS = ["size=32", "backbone=dino", "backbone.size=tiny", "backbone.patch=8", "backbone.weights=none"]
FLAGS += ["diffusion.weights=none", "diffusion.size=tiny", "batch=2", "conditioning.vectors=60", "validation=4"]
FLAGS += ["warmup=3", "lr=1e-3", "accelerator=cpu", "ema=0.5", "prompt_dropout=0.5", "data.root=world"]


@pytest.mark.parametrize(
    ("devices", "workers", "accumulate", "images"),
    # How many images there are decides where in an epoch step 2 and its checkpoint lie: in the middle, or at its end.
    [(1, 0, 1, 4), (1, 2, 2, 6), (2, 2, 1, 8), (2, 0, 2, 10), (3, 2, 1, 12), (4, 0, 2, 24)],
)
def test_a_killed_run_is_certified(devices, workers, accumulate, images, place, forks, monkeypatch, capsys):
    def launch(log: Path, words: list[str]) -> None:
        where, moment, experiment, *flags = words
        run = forks(["train", experiment, *flags], devices, [Witness(Path(where), moment)])
        # The first rank is killed, and so would the others be.
        assert run.wait(first=1 if moment else None) == ([-signal.SIGKILL] if moment else [0] * devices), run.said()

    monkeypatch.setattr(certify, "_launch", launch)
    render = ["data", "render", "scenes", "world", "format=coco_stuff", "size=32", f"train={images}", "val=4"]
    assert main(render) == 0
    flags = [f"devices={devices}", f"workers={workers}", f"accumulate={accumulate}"]
    assert main(["certify", "coco_stuff", *FLAGS, *flags]) == 0
    told = capsys.readouterr().out
    parts = ("weights", "optimizer", "average", "history", "figures", "samples", "looks", "losses")
    assert all(f"equal      {part}" in told for part in parts) and "the same, bit by bit" in told
    (path,) = place.glob("runs/certify/coco_stuff/*/seed0/certificate.json")
    assert json.loads(path.read_text())["killed at"] == ["step:2", "validation:4", "step:5"]
