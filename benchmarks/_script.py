"""train_controlnet.py of diffusers itself, where a user has it: run as it is, on networks and images made for it."""

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
from lumen.generators.controlnet import ControlledDiffusion

STEPS = (4, 24)  # of two runs, whose difference is of steps alone


def seconds_per_step(script: Path, diffusion: ControlledDiffusion, pixels: int, batch: int, gpu: bool = False) -> float:
    """Of one step of the script: of processor time on one thread, on a GPU by the clock and in bf16.

    Args:
        diffusion: the networks, whose ControlNet takes an image of three channels.

    Raises:
        Mistake: the script failed; with its last line.
    """
    with TemporaryDirectory() as name:
        folder = Path(name)
        _model(diffusion, folder / "model")
        diffusion.controlnet.save_pretrained(folder / "controlnet")
        _images(folder / "images", 2 * batch, pixels)
        words = [sys.executable, str(script.resolve()), "--pretrained_model_name_or_path", "model"]
        words += ["--controlnet_model_name_or_path", "controlnet", "--train_data_dir", "images", "--cache_dir", "cache"]
        words += ["--resolution", str(pixels), "--train_batch_size", str(batch), "--mixed_precision"]
        words += ["bf16" if gpu else "no", "--output_dir", "out", "--max_train_steps"]
        clock = time.perf_counter if gpu else _processor
        # The first run prepares the images, which later ones find done.
        _, less, more = [_spent([*words, str(steps)], folder, clock, gpu) for steps in (1, *STEPS)]
    return (more - less) / (STEPS[1] - STEPS[0])


def _spent(words: list[str], folder: Path, clock: Callable[[], float], gpu: bool) -> float:
    threads = {} if gpu else {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    start = clock()
    done = subprocess.run(
        words, cwd=folder, env=os.environ | threads | {"WANDB_MODE": "disabled"}, capture_output=True, text=True
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise Mistake(f"{words[1]} ended with {done.returncode}: {last}; it needs accelerate and datasets.")
    return clock() - start


def _processor() -> float:
    """Seconds of processor time of all processes that have been waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _model(diffusion: ControlledDiffusion, folder: Path) -> None:
    for part in ("vae", "text_encoder", "tokenizer", "unet", "scheduler"):
        getattr(diffusion.pipeline, part).save_pretrained(folder / part)


def _images(folder: Path, count: int, pixels: int) -> None:
    """Noise as photos, captions, and conditioning images, as the script's loader of folders takes them."""
    draw, lines = np.random.default_rng(0), []
    (folder / "train").mkdir(parents=True)
    for i in range(count):
        for kind in ("photo", "hint"):
            noise = draw.integers(0, 256, (pixels, pixels, 3), dtype=np.uint8)
            Image.fromarray(noise).save(folder / "train" / f"{kind}-{i}.png")
        line = {"file_name": f"photo-{i}.png", "conditioning_image_file_name": f"hint-{i}.png", "text": f"a photo {i}"}
        lines.append(json.dumps(line))
    (folder / "train" / "metadata.jsonl").write_text("\n".join(lines))
