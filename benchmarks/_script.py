"""Timing of diffusers' own train_controlnet.py, run unchanged on networks and images that are made for it."""

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image

from lumen.core.errors import Mistake
from lumen.generators.controlnet import ControlNet

STEPS = (4, 24)  # of two runs that differ in the number of steps alone


def seconds_per_step(script: Path, generator: ControlNet, pixels: int, batch: int, gpu: bool = False) -> float:
    """Return the time of one step of the script: CPU seconds on one thread, or wall-clock seconds in bf16 on a GPU.

    Args:
        script: Path of train_controlnet.py.
        generator: Networks; the ControlNet must take an image of three channels.
        pixels: Side of the images.
        batch: Images per step.

    Raises:
        Mistake: The script failed; the message has its last line.
    """
    with TemporaryDirectory() as name:
        directory = Path(name)
        _save_networks(generator, directory / "model")
        generator.controlnet.save_pretrained(directory / "controlnet")
        _save_images(directory / "images", 2 * batch, pixels)
        command = [sys.executable, str(script.resolve()), "--pretrained_model_name_or_path", "model"]
        command += ["--controlnet_model_name_or_path", "controlnet", "--train_data_dir", "images"]
        command += ["--cache_dir", "cache", "--resolution", str(pixels), "--train_batch_size", str(batch)]
        command += ["--mixed_precision", "bf16" if gpu else "no", "--output_dir", "out", "--max_train_steps"]
        clock = time.perf_counter if gpu else _child_cpu_seconds
        # The first run prepares the images for the later ones.
        _, short, long = [_time_run([*command, str(steps)], directory, clock, gpu) for steps in (1, *STEPS)]
    return (long - short) / (STEPS[1] - STEPS[0])


def _time_run(command: list[str], directory: Path, clock: Callable[[], float], gpu: bool) -> float:
    environment = {} if gpu else {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    environment = os.environ | environment | {"WANDB_MODE": "disabled"}
    start = clock()
    process = subprocess.run(command, cwd=directory, env=environment, capture_output=True, encoding="utf-8")
    if process.returncode:
        last_line = (process.stderr.strip().splitlines() or ["it printed nothing"])[-1]
        raise Mistake(
            f"{command[1]} ended with {process.returncode}: {last_line}; it needs the packages accelerate and datasets."
        )
    return clock() - start


def _child_cpu_seconds() -> float:
    """Return the CPU seconds of all finished child processes."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _save_networks(generator: ControlNet, directory: Path) -> None:
    for part in ("vae", "text_encoder", "tokenizer", "unet", "scheduler"):
        getattr(generator.base, part).save_pretrained(directory / part)


def _save_images(directory: Path, count: int, pixels: int) -> None:
    """Write noise as photos and conditioning images, and captions, in the format of the script's data loader."""
    random, lines = np.random.default_rng(0), []
    (directory / "train").mkdir(parents=True)
    for i in range(count):
        for kind in ("photo", "hint"):
            noise = random.integers(0, 256, (pixels, pixels, 3), dtype=np.uint8)
            Image.fromarray(noise).save(directory / "train" / f"{kind}-{i}.png")
        line = {"file_name": f"photo-{i}.png", "conditioning_image_file_name": f"hint-{i}.png", "text": f"a photo {i}"}
        lines.append(json.dumps(line))
    (directory / "train" / "metadata.jsonl").write_text("\n".join(lines), encoding="utf-8")
