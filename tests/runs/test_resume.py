"""Resume and certificate: a run that is killed or stopped, on one rank or several, equals an uninterrupted one."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import torch

from lumen.__main__ import main
from lumen.config.experiment import dump, load
from lumen.config.identity import config_digest, sanitize
from lumen.core.errors import BadCheckpoint, RunBusy
from lumen.core.locks import lock_directory
from lumen.core.registry import datamodules, tasks
from lumen.core.signals import SIGNAL_EXIT_CODE
from lumen.core.tensor_hashing import hash_tree
from lumen.runs import certify
from lumen.runs.data import build_data
from lumen.runs.directory import run_directory, write_or_verify_config
from lumen.runs.state_hashes import StepRecorder
from lumen.runs.train import train
from lumen.training.checkpoint_io import list_checkpoints, step_of

QUIET = ["validation=2", "metrics=[]", "wandb=disabled", "sampling.steps=1", "sampling.images=1"]


# ---- certificate


def launch_fork(log: Path, arguments: list[str]) -> None:
    """Launch a training of `certify` as a fork, which needs no imports and dies by a kill like any process."""

    def run(directory: str, moment: str, experiment: str, *flags: str) -> None:
        os.setsid()
        sys.stdout = sys.stderr = open(log, "a", buffering=1)  # noqa: SIM115  until the process ends
        train(load(experiment, list(flags)), [StepRecorder(Path(directory), moment)])

    log.parent.mkdir(parents=True, exist_ok=True)
    process = get_context("fork").Process(target=run, args=arguments)
    process.start()
    process.join()
    assert process.exitcode == (-signal.SIGKILL if arguments[1] else 0), log.read_text()


def test_certificate_of_a_run_that_is_killed_three_times(task, tiny, workdir, monkeypatch, capsys):
    """With flips, prompt dropout, EMA, a worker, accumulation, a schedule, and noise that has no key."""
    kind = tasks.factory(task)
    step = kind.training_step

    def noisy_step(self, batch, batch_idx):
        return step(self, batch, batch_idx) * (1 + torch.rand(()) / 10)

    monkeypatch.setattr(kind, "training_step", noisy_step)
    monkeypatch.setattr(certify, "_launch", launch_fork)
    assert main(["data", "render", "scenes", "world", "format=coco_stuff", "size=32", "train=6", "val=2"]) == 0
    flags = [*tiny, "validation=2", "workers=1", "accumulate=2", "lr_schedule=cosine"]
    assert main(["certify", "coco_stuff", "data.root=world", *flags]) == 0
    message = capsys.readouterr().out
    parts = ("weights", "optimizer", "average", "history", "metrics", "samples", "views", "losses")
    assert all(f"equal      {part}" in message for part in parts)
    (path,) = workdir.glob("runs/certify/coco_stuff/*/seed0/certificate.json")
    certificate = json.loads(path.read_text())
    assert certificate["equal"] and certificate["killed at"] == ["step:2", "validation:4", "step:5"]
    assert set(certificate["parts"]) == set(parts) and not (path.parent / "whole").exists()


@pytest.mark.slow
def test_certificate_of_a_streamed_run_that_is_killed_three_times(tiny, workdir, monkeypatch, capsys):
    monkeypatch.setattr(certify, "_launch", launch_fork)
    for name in ("first", "second"):
        datamodules.factory("webdataset").fake(workdir / name)
        for path in (workdir / name).iterdir():
            path.rename(path.with_stem(f"{name}-{path.stem}"))  # shards of one name are refused
    data = ["data=webdataset", "data.shards=[first,second]", "data.streaming=true", "data.streams=2", "data.buffer=3"]
    assert main(["certify", "coco_stuff", *data, *tiny, "validation=2", "workers=1", "accumulate=2"]) == 0
    assert "DIFFERENT" not in (message := capsys.readouterr().out) and "equal      losses" in message
    (path,) = workdir.glob("runs/certify/coco_stuff/*/seed0/certificate.json")
    assert json.loads(path.read_text())["killed at"] == ["step:2", "validation:4", "step:5"]


def test_certificate_names_what_differs(tiny, workdir, monkeypatch, capsys):
    hashes = iter([{"weights": "a", "losses": "b"}, {"weights": "a", "losses": "c"}])
    monkeypatch.setattr(certify, "_launch", lambda log, _: log.parent.mkdir(exist_ok=True))
    monkeypatch.setattr(certify, "hash_run_state", lambda _: next(hashes))
    assert main(["certify", "scenes", *tiny]) == 1
    message = capsys.readouterr().out
    assert "equal      weights" in message and "DIFFERENT  losses" in message
    (path,) = workdir.glob("runs/certify/scenes/*/seed0/certificate.json")
    certificate = json.loads(path.read_text())
    assert certificate["parts"] == {"weights": True, "losses": False} and not certificate["equal"]
    assert (path.parent / "continued").exists()  # for inspection


def test_hash_tree_covers_every_bit_and_name():
    weight = torch.tensor([1.0, 2.0])
    trees = [{"a": weight}, {"b": weight}, {"a": weight.nextafter(torch.tensor(9.0))}, {"a": weight.double()}]
    trees += [{"a": weight[None]}, {"a": [1.0, 2.0]}, {"a": [1.0, [2.0]]}, {"a": weight, "b": None}]
    assert len({hash_tree(tree) for tree in trees}) == len(trees)
    assert hash_tree({"a": weight.clone()}) == hash_tree(trees[0])


# ---- checkpoints


def test_best_checkpoint_stays_and_is_evaluated(tiny, workdir):
    diverging = ["lr=0.3", "warmup=0", "every.validate=1", "every.checkpoint=1"]  # the loss grows from step to step
    flags = [flag for flag in tiny if flag.partition("=")[0] not in ("lr", "warmup", "ema")]
    flags += ["data.images=6", "steps=3", "keep=1", "best=val/loss"]
    assert main(["train", "scenes", *flags, *QUIET, *diverging]) == 0
    run = next(workdir.glob("runs/scenes/*/seed0"))
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    losses = {line["step"] + 1: line["val/loss"] for line in lines if "val/loss" in line}
    lowest = min(losses, key=losses.get)
    assert lowest < 3 and [step_of(path) for path in list_checkpoints(run / "checkpoints")] == [3, lowest]
    assert main(["eval", str(run), "best=val/loss"]) == 0
    results = json.loads((run / "eval" / sanitize("best=val/loss") / "metrics.json").read_text())
    assert results["steps"] == lowest and results["val/loss"] == pytest.approx(losses[lowest], rel=1e-5)


# ---- several processes


def test_signal_to_any_rank_stops_all_ranks(task, tiny, workdir, forking):
    command = [sys.executable, "-m", "lumen", "train", "scenes", *tiny, *QUIET, "data.images=6", "devices=2"]
    command += ["steps=5000", "every.log=1", "every.validate=5000", "every.checkpoint=5000", "workers=0"]
    main_rank = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)

    def find_history() -> list[Path]:
        assert main_rank.poll() is None, main_rank.stderr.read()
        paths = workdir.glob("runs/scenes/*/seed0/metrics.jsonl")
        return [path for path in paths if len(path.read_text().splitlines()) > 2]

    (history,) = wait_for(find_history, "no training")
    (other,) = map(int, Path(f"/proc/{main_rank.pid}/task/{main_rank.pid}/children").read_text().split())
    before = len(history.read_text().splitlines())
    os.kill(other, signal.SIGUSR1)
    message = main_rank.communicate(timeout=60)[1].splitlines()[-1]
    (checkpoint,) = list_checkpoints(history.parent / "checkpoints")
    step = step_of(checkpoint)
    assert main_rank.returncode == SIGNAL_EXIT_CODE and f"at step {step}" in message and "the same command" in message
    assert before <= step <= before + 50 and step % 5 == 0
    assert len(history.read_text().splitlines()) == step
    assert wait_for(lambda: not Path(f"/proc/{other}/exe").exists(), "the other rank does not end")


def wait_for(condition: Callable[[], Any], message: str) -> Any:
    """Return what the condition returns once it is true."""
    for _ in range(1200):
        if value := condition():
            return value
        time.sleep(0.1)
    raise AssertionError(message)


def test_worker_survives_a_signal_to_all_processes(tiny):
    data = build_data(load("scenes", [*tiny, "data.images=40", "workers=1", "steps=20"]))
    loader = data.train_dataloader()
    batches = iter(loader)
    assert len(next(batches).id) == 2
    (worker,) = loader._iterator._workers
    subprocess.run(["kill", "-TERM", str(worker.pid)], check=True)
    assert sum(1 for _ in batches) == 19 and worker.is_alive()
    worker.terminate()  # by its parent
    worker.join(10)
    assert worker.exitcode == 0


def test_lock_of_a_dead_run_is_free_although_its_workers_live(tmp_path):
    def idle() -> None:
        started.set()
        time.sleep(60)

    fork = get_context("fork")
    started = fork.Event()
    with lock_directory(tmp_path):
        worker = fork.Process(target=idle)
        worker.start()
        assert started.wait(60)
    with lock_directory(tmp_path):
        assert worker.is_alive()
    worker.kill()
    worker.join()


def test_resume_on_another_number_of_processes_is_refused(tiny, tmp_path, monkeypatch, capsys):
    """A flag names another run; of a changed experiment, a loader and torchrun, an error has the numbers."""
    two, four = load("scenes", [*tiny, "devices=2"]), load("scenes", [*tiny, "devices=4"])
    assert run_directory(two) != run_directory(four)
    write_or_verify_config(tmp_path, two)
    with pytest.raises(RunBusy, match="devices was 2, is now 4"):
        write_or_verify_config(tmp_path, four)
    loader = build_data(load("scenes", [*tiny, "data.images=40"])).train_dataloader()
    with pytest.raises(BadCheckpoint, match="world was 2 and is 1"):
        loader.load_state_dict(loader.state_dict() | {"world": 2})
    monkeypatch.chdir(tmp_path)
    environment = {"TORCHELASTIC_RUN_ID": "x", "RANK": "1", "LOCAL_RANK": "1", "GROUP_RANK": "0"}
    for name, value in (environment | {"WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2"}).items():
        monkeypatch.setenv(name, value)
    assert main(["train", "scenes", *tiny, *QUIET, "devices=4", "validation=4"]) == 2
    message = capsys.readouterr().err
    assert "devices=4 nodes=1" in message and "devices=2 nodes=2" in message


def test_elastic_run_is_the_same_however_its_steps_are_divided(tiny, tmp_path):
    splits = [["devices=2", "batch=4"], ["batch=8"], ["nodes=2", "batch=1", "accumulate=4"], ["batch=4", "devices=4"]]
    configs = [load("scenes", [*tiny, "elastic=true", *flags]) for flags in splits]
    directories = [run_directory(config) for config in configs]
    digests = [config_digest(dump(config)) for config in configs]
    assert len({*directories[:3]}) == len({*digests[:3]}) == 1
    assert directories[3] != directories[0] and digests[3] != digests[0]
    write_or_verify_config(tmp_path, configs[0])
    write_or_verify_config(tmp_path, configs[1])
    with pytest.raises(RunBusy, match="together was 8, is now 16"):
        write_or_verify_config(tmp_path, configs[3])
