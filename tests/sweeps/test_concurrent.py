"""Sweeps and cache fillers at once on one directory: each run is trained once, with the bits of a lone sweep."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from lumen.runs.state_hashes import hash_run_state

SMALL = ["size=32", "diffusion.weights=none", "batch=2", "data.images=12", "conditioning.vectors=60", "validation=2"]
SMALL += ["steps=6", "metrics=[]", "wandb=disabled", "sampling.steps=1", "sampling.images=1", "accelerator=cpu"]
SMALL += ["cache=always", "views=2"]
ROWS = "rows=CLIP,DINO"


def start(directory: Path, *words: str) -> subprocess.Popen:
    command = [sys.executable, "-P", "-m", "lumen", *words]
    return subprocess.Popen(command, cwd=directory, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def hash_runs(directory: Path) -> dict[str, dict[str, str]]:
    runs = directory.glob("runs/scenes/*/seed0")
    return {run.parent.name: hash_run_state(run) for run in runs}


@pytest.mark.slow
def test_two_sweeps_and_three_cache_fillers_at_once_equal_one_sweep(workdir):
    together, alone = workdir / "together", workdir / "alone"
    for directory in (together, alone):
        directory.mkdir()
    fill = ["cache", "build", "scenes", *SMALL]
    fillers = [start(together, *fill, f"backbone={name}") for name in ("clip", "dino", "clip")]
    sweeps = [start(together, "ablate", "table1", "base=scenes", ROWS, *SMALL, "slots=2") for _ in range(2)]
    outputs = {process: process.communicate(timeout=900)[0] for process in [*fillers, *sweeps]}
    assert [process.returncode for process in outputs] == [0] * 5, "\n".join(outputs.values())
    lone = start(alone, "ablate", "table1", "base=scenes", ROWS, *SMALL)
    assert lone.wait(900) == 0
    assert hash_runs(together) == hash_runs(alone) and len(hash_runs(alone)) == 2
    logs = [path.read_text() for path in together.glob("runs/scenes/*/seed0/log.txt")]
    assert sum(log.count("$ lumen train") for log in logs) == 2
    assert not any(path.suffix == ".part" for path in together.rglob("*"))
    check = start(together, "cache", "verify")
    assert "Traceback" not in check.communicate()[0] and check.returncode == 0
    for run in together.glob("runs/scenes/*/seed0"):
        assert json.loads((run / "metrics.json").read_text())["steps"] == 6
