"""Inventory of runs: states, filters, the index, and the removal of checkpoints."""

import hashlib
import json
import os
from pathlib import Path

import pytest
import yaml

from lumen.config.experiment import dump, load
from lumen.core.errors import BadCheckpoint, RunBusy, UnknownName
from lumen.core.files import write, write_json
from lumen.core.locks import lock_directory
from lumen.runs.directory import run_directory
from lumen.runs.inventory import list_runs
from lumen.runs.prune import plan_removals
from lumen.runs.run_filters import select_runs
from lumen.runs.run_records import RecordIndex

RUNS = Path("runs")


@pytest.fixture
def make_run(workdir):
    """Function that writes what a run leaves behind: its config, checkpoints, and results if it has finished."""

    def make(*flags, steps=(1, 2), metrics=True, best=None):
        config = load("scenes", [*flags, "steps=9"])
        directory = run_directory(config)
        write(directory / "config.yaml", yaml.safe_dump(dump(config)))
        for step in steps:
            path = directory / "checkpoints" / f"step{step:08d}.ckpt"
            write(path, b"0" * 1000)
            values = {} if best is None else {"val/loss": float(step != best)}
            write_json(path.with_suffix(".json"), {"sha256": hashlib.sha256(b"0" * 1000).hexdigest()} | values)
        if metrics:
            values = {"test/miou": 0.5, "test/miou_95": [0, 1], "test/miou/sky": 0.1, "val/loss": 0.25, "steps": 9}
            write_json(directory / "metrics.json", values)
        return directory

    return make


def states():
    return {run.name.split("/")[1]: run.state for run in list_runs(RUNS)}


def test_inventory_knows_the_state_of_each_run(make_run):
    make_run("lr=1e-3")
    stopped = make_run("lr=2e-3", metrics=False)
    write(stopped / "log.txt", "$ lumen train scenes\nlumen: stopped by SIGTERM; repeat the command.\n")
    write(make_run("lr=3e-3", metrics=False) / "log.txt", "$ lumen train\nstarts\nlumen: the disk is full.\n")
    write(make_run("lr=4e-3") / "metrics.json", '{"steps": ')
    write(make_run("lr=5e-3") / "config.yaml", "[")
    held = make_run("lr=6e-3", metrics=False)
    write(held / "metrics.jsonl", '{"step": 6, "train/loss": 1}\n{"step": 7')
    make_run("name=mine", metrics=False, steps=())
    with lock_directory(held):
        assert states() == {
            **{"lr=0.001,steps=9": "finished", "lr=0.002,steps=9": "stopped", "lr=0.003,steps=9": "failed"},
            **{"lr=0.004,steps=9": "damaged", "lr=0.005,steps=9": "damaged", "lr=0.006,steps=9": "running"},
            "mine": "stopped",
        }
        by_state = {run.state: run for run in list_runs(RUNS)}
    assert by_state["running"].step == 7 and by_state["stopped"].step in (0, 2)
    finished = by_state["finished"]
    assert (finished.step, finished.steps) == (9, 9) and finished.metrics == {"miou": 0.5, "val/loss": 0.25}
    assert finished.command == "lumen train scenes lr=0.001 steps=9"
    assert finished.num_bytes > 2000 and "the disk is full" in by_state["failed"].problem
    assert by_state["damaged"].problem.count("\n") == 0


def test_inventory_passes_over_what_is_no_run(make_run):
    make_run()
    with lock_directory(RUNS / "scenes" / "refused" / "seed0", temporary=False):
        pass
    for path in ("tables/table1-scenes.md", "cache/latents-1/a.npy", "anchors/x/real.json", "scenes/default/note.txt"):
        write(RUNS / path, "x")
    os.symlink("/nowhere", RUNS / "scenes" / "gone")
    assert [run.name for run in list_runs(RUNS)] == ["scenes/steps=9/seed0"]


def test_inventory_is_filtered_by_keys_of_the_config(make_run):
    make_run("backbone=dino", "backbone.patch=8", "name=a")
    make_run("backbone=clip", "lr=2e-3", "name=b")
    make_run("conditioning=canny", "name=c")
    make_run("backbone=dino", "seed=1", "name=d", metrics=False)
    runs = list_runs(RUNS)
    selected = {
        "abcd": [{}, {"compile": "false", "experiment": "scenes", "generator": "controlnet"}, {"metrics": "miou"}],
        "ad": [{"backbone": "dino"}],  # that of c is not used
        "ab": [{"backbone": "dino,clip", "seed": "0"}],
        "a": [{"backbone.patch": "8"}],
        "b": [{"lr": "0.0020"}],
        "c": [{"conditioning": "[canny]"}],
        "d": [{"state": "stopped"}, {"name": "d"}],
        "": [{"wandb": "offline"}],
    }
    for names, several in selected.items():
        for filters in several:
            assert sorted(run.name.split("/")[1] for run in select_runs(runs, filters)) == list(names), filters


@pytest.mark.parametrize("filters", [{"bakbone": "dino"}, {"state": "done"}, {"backbone.nothing": "1"}])
def test_inventory_filter_that_is_unknown_is_named(filters, make_run):
    with pytest.raises(UnknownName):
        select_runs(list_runs(RUNS), filters)


def test_inventory_of_an_older_config_counts_defaults(make_run):
    path = make_run() / "config.yaml"
    tree = yaml.safe_load(path.read_text())
    for key in ("task", "generator", "elastic", "name"):
        del tree[key]
    write(path, yaml.safe_dump(tree))
    filters = {"task": "layout_to_image", "generator": "controlnet", "elastic": "no", "name": "null"}
    assert len(select_runs(list_runs(RUNS), filters)) == 1


def test_run_index_saves_reading_and_is_never_wrong(make_run, monkeypatch):
    runs = [make_run(f"seed={seed}") for seed in range(3)]
    first = list_runs(RUNS)
    reads = []
    monkeypatch.setattr("lumen.runs.run_records.read_record", lambda run: reads.append(run) or {"problem": "read"})
    assert list_runs(RUNS) == first and reads == []
    facts = (runs[1] / "metrics.json").stat()
    text = (runs[1] / "metrics.json").read_text().replace("0.25", "0.75")
    (runs[1] / "metrics.json").write_text(text)  # of the same length, and as old
    os.utime(runs[1] / "metrics.json", ns=(facts.st_atime_ns, facts.st_mtime_ns))
    RecordIndex(RUNS).read("scenes/steps=9/seed1", runs[1])
    assert reads == [runs[1]]


@pytest.mark.parametrize("damage", ["", "x", '{"format": 1}\n', None])
def test_run_index_that_is_damaged_is_made_anew(damage, make_run):
    make_run()
    first, index = list_runs(RUNS), RUNS / "index.jsonl"
    text = index.read_text()
    index.write_text(text.replace("0.25", "0.75") if damage is None else damage)
    assert list_runs(RUNS) == first and index.read_text() == text


def test_run_index_forgets_removed_runs_and_needs_no_place(make_run, monkeypatch):
    gone = make_run("seed=1")
    make_run()
    list_runs(RUNS)
    (gone / "config.yaml").rename(gone.parent / "config.yaml")
    for path in sorted(gone.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    assert len(list_runs(RUNS)) == 1 and "seed1" not in (RUNS / "index.jsonl").read_text()
    (RUNS / "index.jsonl").unlink()
    (RUNS / "index.jsonl").mkdir()  # it can be neither read nor written
    assert len(list_runs(RUNS)) == 1


def names_of_checkpoints(run):
    return sorted(path.name for path in (run / "checkpoints").iterdir())


def test_prune_leaves_the_newest_checkpoint_and_the_best(make_run):
    plain, best, running = (
        make_run("lr=1e-3", steps=(1, 2, 3)),
        make_run("best=val/loss", steps=(1, 2, 3), best=1),
        None,
    )
    running = make_run("lr=2e-3", metrics=False)
    removals = plan_removals(list_runs(RUNS))
    assert sum(removal.carry_out() for removal in removals) > 3000
    assert names_of_checkpoints(plain) == ["step00000003.ckpt", "step00000003.json"]
    assert [name for name in names_of_checkpoints(best) if "ckpt" in name] == ["step00000001.ckpt", "step00000003.ckpt"]
    assert len(names_of_checkpoints(running)) == 4 and plan_removals(list_runs(RUNS)) == []


def test_prune_leaves_runs_that_are_held_or_damaged(make_run):
    run = make_run()
    (removal,) = plan_removals(list_runs(RUNS))
    with lock_directory(run), pytest.raises(RunBusy):
        removal.carry_out()
    write(run / "checkpoints" / "step00000002.ckpt", b"1" * 1000)
    with pytest.raises(BadCheckpoint):
        removal.carry_out()
    assert len(names_of_checkpoints(run)) == 4


def test_run_records_are_plain_json(make_run):
    make_run()
    (run,) = list_runs(RUNS)
    assert json.loads(json.dumps(run.settings)) == run.settings and run.settings["metrics"]
