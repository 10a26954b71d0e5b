"""Run directories that do not stay in their place, and histories that a power failure has cut."""

import json
import shutil
from pathlib import Path

import pytest


def move(run: Path) -> None:
    run.rename("moved")


def remove(run: Path) -> None:
    shutil.rmtree(run)


@pytest.mark.parametrize(
    "world_size", [pytest.param(1, marks=pytest.mark.long), pytest.param(2, marks=pytest.mark.slow)]
)
def test_moved_run_ends_and_resumes_once_it_is_back(
    world_size, start_run, before_step, run_dir, hash_run, reference_hashes
):
    run = start_run(world_size=world_size, callbacks=[before_step(3, lambda: move(run_dir()), 0)])
    codes = run.wait(60)
    assert codes[0] == 2 and "moved or removed" in run.output() and 0 not in codes, run.output()
    (experiment,) = Path("runs/scenes").iterdir()
    assert list(experiment.iterdir()) == [] and list(Path("moved").rglob("*.part")) == []
    Path("moved").rename(experiment / "seed0")
    assert start_run(world_size=world_size).wait() == [0] * world_size
    assert hash_run() == reference_hashes(world_size)


@pytest.mark.long
def test_removed_run_ends(start_run, before_step, run_dir):
    run = start_run("every.log=100", "wandb=offline", callbacks=[before_step(5, lambda: remove(run_dir()))])
    assert run.wait() == [2]
    assert "moved or removed" in run.output() and "Traceback" not in run.output()
    assert [path for path in Path("runs/scenes").rglob("*") if path.is_file()] == []


@pytest.mark.long
def test_history_that_a_power_failure_has_cut_is_mended(start_run, before_step, kill_self, run_dir):
    start_run(callbacks=[before_step(5, kill_self)]).wait()
    path = run_dir() / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_bytes("".join(lines[:2]).encode() + bytes(200))
    run = start_run()
    assert run.wait() == [0]
    assert f"{path.relative_to(Path.cwd())} is damaged" in run.output() and "steps 2 to 3 is lost" in run.output()
    steps = {line["step"] for line in map(json.loads, path.read_text().splitlines()) if "train/loss" in line}
    assert steps == {0, 1, 4, 5}
