"""Runs of every generator but the default one: cost, training, exact resume, evaluation, samples."""

import json
import signal
import subprocess
import sys

import pytest
import torch
from PIL import Image

from lumen.__main__ import main
from lumen.config.schema import DEFAULT_GENERATOR
from lumen.core.registry import generators
from lumen.runs.state_hashes import hash_run_state
from lumen.training.tasks.layout_to_image import LayoutToImage

TINY = ["size=32", "diffusion.weights=none", "batch=2", "data.images=4", "validation=2", "warmup=1", "accelerator=cpu"]
TINY += ["metrics=[lpips]", "measure.images=2", "measure.anchors=[]", "sampling.steps=2", "sampling.images=1"]
TINY += ["ema=0.5", "every.validate=2", "every.checkpoint=2", "workers=0", "wandb=disabled"]


@pytest.mark.long
@pytest.mark.parametrize("name", sorted({*generators.names()} - {DEFAULT_GENERATOR}))
def test_run_resumes_to_the_bit_and_is_evaluated_and_sampled(name, workdir, monkeypatch, capsys):
    required = generators.literal(name, "requires", {})
    flags = [*TINY, f"generator={name}", *([] if "steps" in required else ["steps=4"])]
    flags += [] if "conditioning" in required else ["conditioning=blank"]
    flags += [f"generator.{key}=2" for key in generators.arguments(name) if key.endswith("_steps")]
    flags += ["generator.weights=none"] if "weights" in generators.arguments(name) else []
    assert main(["show", "scenes", *flags, "--cost"]) == 0 and name in capsys.readouterr().out.lower()
    assert main(["train", "scenes", *flags, "runs=whole"]) == 0
    step = LayoutToImage.training_step

    def interrupted(self, batch, batch_idx):
        if self.global_step == 3:
            signal.raise_signal(signal.SIGTERM)
        return step(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(LayoutToImage, "training_step", interrupted)
        assert main(["train", "scenes", *flags, "runs=resumed"]) == (0 if "steps" in required else 75)
    assert main(["train", "scenes", *flags, "runs=resumed"]) == 0
    whole, resumed = (next(workdir.glob(f"{runs}/scenes/*/seed0")) for runs in ("whole", "resumed"))
    assert hash_run_state(whole) == hash_run_state(resumed)
    assert (whole / "metrics.json").read_bytes() == (resumed / "metrics.json").read_bytes()
    newest = max((whole / "checkpoints").glob("*.ckpt"))
    keys = torch.load(newest, weights_only=True)["state_dict"].keys()
    trained = {key.split(".")[1] for key in keys if key.startswith("diffusion.")}
    assert trained == {"freestyle": {"unet"}, "pnp": set(), "oasis": set()}.get(name, trained)
    assert main(["eval", str(whole), "sampling.steps=1"]) == 0
    if required.get("conditioning") != "segmap":  # a photo has no labels
        Image.new("RGB", (40, 40), "red").save("photo.png")
        assert main(["sample", str(whole), "photo.png", "a red ball", "out=sheet.png"]) == 0


@pytest.mark.long
def test_run_without_parameters_is_evaluated_by_two_processes_as_by_one(workdir, forking):
    flags = [*TINY, "generator=pnp", "generator.inversion_steps=2", "precision=32-true", "measure.images=4"]
    values = []
    for devices, batch in ((1, 2), (2, 1)):
        words = ["train", "scenes", *flags, f"devices={devices}", f"batch={batch}", f"runs=runs{devices}"]
        assert subprocess.run([sys.executable, "-m", "lumen", *words], capture_output=True).returncode == 0
        (metrics,) = workdir.glob(f"runs{devices}/scenes/*/seed0/metrics.json")
        values.append(json.loads(metrics.read_text())["val/loss"])
    assert values[0] == pytest.approx(values[1], rel=1e-4)
