"""ControlNet of the offline world: the run that comes with LUMEN, on DINO's layouts of 20 components."""

import shutil
import subprocess
import sys
from pathlib import Path

import yaml
from safetensors import safe_open

from lumen.core.errors import Mistake
from lumen.core.files import write
from lumen.core.readers import read_json, read_yaml
from lumen.scenes.recipes.model_card import CARD
from lumen.training.checkpoint_files import list_checkpoints
from lumen.training.half_weights import FILE, convert_checkpoint

MAX_BYTES = 8_000_000  # of the weights, which everybody downloads
LOCAL_KEYS = ("runs", "name", "wandb.mode", "logger")  # that say where and how it was trained, not what
ROWS = {"test": "", "real": "real images", "text": "caption alone", "shuffled": "another image's layout"}
TRAINING_NOTES = """\
Training notes: `lumen train scenes` made this run with its own defaults; only the steps are more. The basis of the
layouts stays in float32, so that layouts equal those of training to the bit. The weights belong to the autoencoder, the
text encoder, the U-Net and the DINO beside them. After a new training of one of these, train this anew: LUMEN refuses
it otherwise.
"""


def train(
    out: Path, work: Path, steps: int = 3000, batch: int = 16, images: int = 4096, held_out: int = 96, seed: int = 0
) -> dict[str, float]:
    """Train by `lumen train`, which resumes, and copy what was learnt to out. Return the rows of the model card."""
    flags = [f"steps={steps}", f"batch={batch}", f"data.images={images}", f"measure.images={held_out}", f"seed={seed}"]
    local = [f"runs={work / 'controlnet'}", "name=controlnet", "wandb.mode=disabled", "logger=[]"]
    code = subprocess.run([sys.executable, "-m", "lumen", "train", "scenes", *flags, *local]).returncode
    if code:
        raise Mistake(f"lumen train ended with code {code}, so nothing was copied; its message stands above.")
    copy_run(work / "controlnet" / "scenes" / "controlnet" / f"seed{seed}", out)
    metrics = evaluate(out, work)
    write_card(out, f"controlnet {steps=} {batch=} {images=} {held_out=} {seed=}", metrics)
    return metrics


def evaluate(directory: Path, work: Path) -> dict[str, float]:
    """Return what `lumen train` measured on held-out scenes, by metric and row."""
    results = read_json(directory / "metrics.json", "repeat the recipe")
    metrics = {}
    for row, title in ROWS.items():
        for key, value in results.items():
            kind, _, metric = key.partition("/")
            if kind == row and isinstance(value, int | float) and "/" not in metric:
                metrics[", ".join(filter(None, [metric, title]))] = round(value, 4)
    return metrics


def copy_run(run: Path, out: Path) -> None:
    """Write the newest weights of a run in half precision, its config without places of this machine, and its results.

    Raises:
        Mistake: The weights are larger than what is shipped.
    """
    draft = run / "shipped"
    convert_checkpoint(list_checkpoints(run / "checkpoints")[0], draft)
    size = (draft / FILE).stat().st_size
    if size > MAX_BYTES:
        raise Mistake(f"{draft / FILE} has {size / 1e6:.1f} MB, and at most {MAX_BYTES // 1_000_000} are shipped.")
    tree = read_yaml(run / "config.yaml", "repeat the recipe") | {"runs": "runs", "name": None}
    tree["flags"] = {key: value for key, value in tree["flags"].items() if key not in LOCAL_KEYS}
    out.mkdir(parents=True, exist_ok=True)
    write(out / "config.yaml", yaml.safe_dump(tree, sort_keys=False))
    for path in (draft / FILE, run / "metrics.json"):
        shutil.copyfile(path, out / path.name)
    shutil.rmtree(draft)


def write_card(directory: Path, command: str, metrics: dict[str, float]) -> None:
    """Write directory/README.md."""
    with safe_open(directory / FILE, "pt") as file:
        parameters = sum(file.get_tensor(name).numel() for name in list(file.keys()))
    title = __doc__.splitlines()[0].rstrip(".")
    rows = "\n".join(f"| {name} | {value} |" for name, value in metrics.items())
    values = {"title": title, "command": command, "parameters": parameters, "rows": rows, "notes": TRAINING_NOTES}
    write(directory / "README.md", CARD.format(**values))
