"""Runs of no steps, for tasks that learn without any: trained, evaluated, resumed."""

from pathlib import Path

import pytest

from lumen.__main__ import main
from lumen.core.plugins import Plugin
from lumen.core.registry import tasks

SOURCE = '''"""Layout to image without training."""

from lumen.core.registry import tasks
from lumen.training.tasks.layout_to_image import LayoutToImage


@tasks.register
class Untrained(LayoutToImage):
    """A task that learns nothing by steps."""

    min_steps = 0

    def __init__(self, *, generator, conditioning, optimization, seed=0):
        super().__init__(generator=generator, conditioning=conditioning, optimization=optimization, seed=seed)
'''
PIPELINE = next(Path(__file__).parent.glob("fixtures/*/pipeline"))
TINY = ["size=32", "backbone=dino", "backbone.size=tiny", "backbone.patch=8", "backbone.weights=none", "batch=2"]
TINY += [f"diffusion.weights={PIPELINE}", "data.images=6", "conditioning.vectors=60", "validation=2"]
TINY += ["metrics=[]", "sampling.steps=1", "sampling.images=1", "measure.images=3", "workers=0", "wandb=disabled"]


@pytest.mark.long
def test_run_of_zero_steps_is_evaluated_and_resumed(workdir, monkeypatch, capsys):
    (workdir / "untrained.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(str(workdir))
    monkeypatch.setitem(vars(tasks), "_plugins", {"untrained": Plugin("untrained", "untrained", "acme 1.0")})
    command = ["train", "scenes", *TINY, "task=untrained", "steps=0", "accelerator=cpu"]
    assert main(command) == 0
    (run,) = workdir.glob("runs/scenes/*/seed0")
    results = (run / "metrics.json").read_bytes()
    assert [path.name for path in (run / "checkpoints").glob("*.ckpt")] == ["step00000000.ckpt"]
    assert main(["eval", str(run), "sampling.steps=2"]) == 0
    (run / "metrics.json").unlink()
    assert main(command) == 0 and "resumes at step 0" in capsys.readouterr().out
    assert (run / "metrics.json").read_bytes() == results
