"""Light commands: those that only read files run where torch cannot be imported."""

import subprocess
import sys

import numpy as np
import pytest

import lumen
from datamodules.coco_stuff import CocoStuff
from lumen.data.cache import CacheStore

WITHOUT_TORCH = """
import sys
sys.modules.update(dict.fromkeys(["torch", "lightning", "diffusers", "transformers", "typer", "click", "rich"]))
from lumen.__main__ import main
sys.exit(main(sys.argv[1:]))
"""


def run_without_torch(*arguments: str, cwd=None) -> subprocess.CompletedProcess:
    """Run a command in a process where importing torch fails."""
    command = [sys.executable, "-c", WITHOUT_TORCH, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=cwd)


@pytest.fixture
def cache(tmp_path):
    """Cache with one store of five rows, in runs of the working directory."""
    key = {"look": {"data": "scenes", "size": 32}, "dtype": "float16"}
    CacheStore(tmp_path / "runs" / "cache", "latents", key).write("a", np.zeros((5, 3), np.float16), {})
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["list"], "layout_to_image"),
        (["show", "scenes", "backbone=clip"], "backbone=clip/seed0"),
        (["cache", "ls"], "5 rows"),
        (["cache", "verify"], "0 damaged"),
        (["cache", "prune"], "1 removed"),
        (["table", "table1", "base=scenes"], "commands are left"),
        (["ablate", "table1", "base=scenes", "--print"], "lumen train scenes backbone=clip"),
        (["ablate", "scenes", "backbone=dino,clip", "--print"], "lumen train scenes backbone=clip"),
        (["runs"], "no runs"),
        (["help"], "Train and evaluate a run"),
        (["help", "lr"], "AdamW"),
        (["list", "dino"], "backbone.facet=key"),
        (["--version"], "lumen 0."),
        (["completion", "--line", "lumen train scenes backbone=d"], "backbone=dinov2"),
    ],
    ids=" ".join,
)
def test_light_command_needs_no_torch(arguments, words, cache):
    result = run_without_torch(*arguments, cwd=cache)
    assert result.returncode == 0 and words in result.stdout, result.stderr


def test_light_data_check_of_a_missing_directory_needs_no_torch(tmp_path):
    result = run_without_torch("data", "check", "coco_stuff", f"root={tmp_path / 'nowhere'}")
    assert result.returncode == 1 and "nowhere does not exist" in result.stdout, result.stderr


def test_light_train_of_a_finished_run_needs_no_torch(tmp_path):
    run = tmp_path / "runs" / "scenes" / "backbone=clip" / "seed0"
    run.mkdir(parents=True)
    (run / "metrics.json").write_text('{"val/loss": 1.0}')
    result = run_without_torch("train", "scenes", "backbone=clip", cwd=tmp_path)
    assert result.returncode == 0 and "is finished" in result.stdout, result.stderr
    result = run_without_torch("train", "scenes", "backbone=sd", cwd=tmp_path)
    assert result.returncode == 1 and "torch" in result.stderr  # which another run needs


def test_light_train_of_a_finished_run_compares_other_data_without_torch(tmp_path):
    run = tmp_path / "runs" / "coco_stuff" / "default" / "seed0"
    run.mkdir(parents=True)
    (run / "metrics.json").write_text('{"val/loss": 0.5}')
    CocoStuff.fake(tmp_path / "data")
    result = run_without_torch("train", "coco_stuff", "data.root=data", cwd=tmp_path)
    assert result.returncode == 0 and "is finished" in result.stdout, result.stderr
    result = run_without_torch("train", "coco_stuff", "data.root=nowhere", cwd=tmp_path)
    assert result.returncode == 2 and "nowhere does not exist" in result.stderr


def test_light_package_imports_its_api_on_first_use():
    code = "import lumen, sys; assert {'load_run', 'Task'} <= set(dir(lumen)); assert not hasattr(lumen, 'nothing'); "
    code += "assert lumen.__version__ and not {'torch', 'lumen.core.interfaces', 'lumen.runs.api'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert lumen.Task.__name__ == "Task" and callable(lumen.load_run)
