"""A run that was killed and continued is the run that was not: in one process, in several, told to stop or not."""

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
from lumen.config import identity
from lumen.config.experiment import load
from lumen.core import locks
from lumen.core.errors import BadCheckpoint, RunBusy
from lumen.core.hashing import hash_tree as digest
from lumen.core.signals import STOPPED
from lumen.runs import certify
from lumen.runs import directory as folder
from lumen.runs import train as run
from lumen.runs.build import build_data
from lumen.runs.state_hashes import Witness
from lumen.training.checkpoint_io import found, step_of
from lumen.training.tasks.layout_to_image import LayoutModule

TINY = ["size=32", "backbone=dino", "backbone.size=tiny", "backbone.patch=8", "backbone.weights=none"]
TINY += ["diffusion.weights=none", "diffusion.size=tiny", "batch=2", "conditioning.vectors=60", "validation=2"]
TINY += ["warmup=3", "lr=1e-3", "accelerator=cpu", "ema=0.5", "prompt_dropout=0.5"]
QUIET = ["metrics=[]", "wandb=disabled", "sampling.steps=1", "sampling.images=1"]


def forked(log: Path, words: list[str]) -> None:
    """certify's launch without the seconds that importing takes: what is killed is a process all the same."""

    def body(where: str, moment: str, experiment: str, *flags: str) -> None:
        os.setsid()
        run.train(load(experiment, list(flags)), [Witness(Path(where), moment)])

    log.parent.mkdir(parents=True, exist_ok=True)
    child = get_context("fork").Process(target=body, args=words)
    child.start()
    child.join()
    assert child.exitcode == (-signal.SIGKILL if words[1] else 0)


def test_a_run_that_is_killed_three_times_is_certified(place, monkeypatch, capsys):
    """With flips, dropped prompts, an average, workers, an accumulated step, and noise that no key belongs to."""
    step = LayoutModule.training_step

    def noisy(self, batch, index):
        return step(self, batch, index) * (1 + torch.rand(()) / 10)

    monkeypatch.setattr(LayoutModule, "training_step", noisy)
    monkeypatch.setattr(certify, "_launch", forked)
    assert main(["data", "render", "scenes", "world", "format=coco_stuff", "size=32", "train=6", "val=2"]) == 0
    assert main(["certify", "coco_stuff", "data.root=world", *TINY, "workers=1", "accumulate=2"]) == 0
    told = capsys.readouterr().out
    parts = ("weights", "optimizer", "average", "history", "figures", "samples", "looks", "losses")
    assert all(f"equal      {part}" in told for part in parts) and "the same, bit by bit" in told
    (path,) = place.glob("runs/certify/coco_stuff/*/seed0/certificate.json")
    certificate = json.loads(path.read_text())
    assert certificate["equal"] and certificate["killed at"] == ["step:2", "validation:4", "step:5"]
    assert set(certificate["parts"]) == set(parts) and not (path.parent / "whole").exists()


def test_a_certificate_says_what_differs(place, monkeypatch, capsys):
    found = iter([{"weights": "a", "losses": "b"}, {"weights": "a", "losses": "c"}])
    monkeypatch.setattr(certify, "_launch", lambda log, _: log.parent.mkdir(exist_ok=True))
    monkeypatch.setattr(certify, "evidence", lambda _: next(found))
    assert main(["certify", "scenes", *TINY]) == 1
    told = capsys.readouterr().out
    assert "equal      weights" in told and "DIFFERENT  losses" in told and "NOT the same" in told
    (path,) = place.glob("runs/certify/scenes/*/seed0/certificate.json")
    assert json.loads(path.read_text())["parts"] == {"weights": True, "losses": False}
    assert (path.parent / "continued").exists()  # to be looked at


def test_every_bit_and_name_is_in_a_digest():
    weight = torch.tensor([1.0, 2.0])
    trees = [{"a": weight}, {"b": weight}, {"a": weight.nextafter(torch.tensor(9.0))}, {"a": weight.double()}]
    trees += [{"a": weight[None]}, {"a": [1.0, 2.0]}, {"a": [1.0, [2.0]]}, {"a": weight, "b": None}]
    assert len({digest(tree) for tree in trees}) == len(trees)
    assert digest({"a": weight.clone()}) == digest(trees[0])


def test_the_best_checkpoint_stays_and_can_be_measured(place):
    rates = ["lr=0.3", "warmup=0", "every.validate=1", "every.checkpoint=1"]  # too high: it gets worse
    flags = [flag for flag in TINY if flag.partition("=")[0] not in ("lr", "warmup", "ema")]
    flags += ["data.images=6", "steps=3", "keep=1", "best=val/loss"]
    assert main(["train", "scenes", *flags, *QUIET, *rates]) == 0
    made = next(place.glob("runs/scenes/*/seed0"))
    lines = [json.loads(line) for line in (made / "metrics.jsonl").read_text().splitlines()]
    losses = {line["step"] + 1: line["val/loss"] for line in lines if "val/loss" in line}
    lowest = min(losses, key=losses.get)
    assert lowest < 3 and [step_of(path) for path in found(made / "checkpoints")] == [3, lowest]
    assert main(["eval", str(made), "best=val/loss"]) == 0
    figures = json.loads((made / "eval" / identity.safe("best=val/loss") / "metrics.json").read_text())
    assert figures["steps"] == lowest and figures["val/loss"] == pytest.approx(losses[lowest], rel=1e-5)


def test_ranks_agree_to_stop_whichever_is_told(place):
    command = [sys.executable, "-m", "lumen", "train", "scenes", *TINY, *QUIET, "data.images=6", "devices=2"]
    command += ["steps=5000", "every.log=1", "every.validate=5000", "every.checkpoint=5000", "workers=0"]
    main_rank = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    path = "runs/scenes/*/seed0/metrics.jsonl"
    (journal,) = wait_for(lambda: [p for p in place.glob(path) if len(p.read_text().splitlines()) > 2], "no training")
    (other,) = map(int, Path(f"/proc/{main_rank.pid}/task/{main_rank.pid}/children").read_text().split())
    before = len(journal.read_text().splitlines())
    os.kill(other, signal.SIGUSR1)
    said = main_rank.communicate(timeout=60)[1].splitlines()[-1]
    assert main_rank.returncode == STOPPED and "the same command goes on from there" in said
    (path,) = found(journal.parent / "checkpoints")
    assert before <= step_of(path) <= before + 50 and step_of(path) % 5 == 0
    assert len(journal.read_text().splitlines()) == step_of(path)
    assert wait_for(lambda: not Path(f"/proc/{other}/exe").exists(), "the other rank does not end")


def wait_for(look: Callable[[], Any], missing: str) -> Any:
    """What is looked for, once it is there."""
    for _ in range(1200):
        if seen := look():
            return seen
        time.sleep(0.1)
    raise AssertionError(missing)


def test_a_process_that_reads_images_lives_on_when_all_are_told_to_stop():
    data = build_data(load("scenes", [*TINY, "data.images=40", "workers=1", "steps=20"]))
    loader = data.train_dataloader()
    batches = iter(loader)
    assert len(next(batches).id) == 2
    (worker,) = loader._iterator._workers
    subprocess.run(["kill", "-TERM", str(worker.pid)], check=True)
    assert sum(1 for _ in batches) == 19 and worker.is_alive()
    worker.terminate()  # by its parent
    worker.join(10)
    assert worker.exitcode == 0


def test_a_folder_is_free_once_its_run_has_died_though_its_workers_have_not(tmp_path):
    def idle() -> None:
        begun.set()
        time.sleep(60)

    fork = get_context("fork")
    begun = fork.Event()
    with locks.claim(tmp_path):
        worker = fork.Process(target=idle)
        worker.start()
        assert begun.wait(60)
    with locks.claim(tmp_path):
        assert worker.is_alive()
    worker.kill()
    worker.join()


def test_another_number_of_processes_is_refused(tmp_path, monkeypatch, capsys):
    """Where a flag says it, it names another run; where the experiment's file or torchrun does, a sentence does."""
    two, four = load("scenes", [*TINY, "devices=2"]), load("scenes", [*TINY, "devices=4"])
    assert folder.place_of(two) != folder.place_of(four)
    folder.settle(tmp_path, two)
    with pytest.raises(RunBusy, match="devices was 2, is now 4"):
        folder.settle(tmp_path, four)
    loader = build_data(load("scenes", [*TINY, "data.images=40"])).train_dataloader()
    with pytest.raises(BadCheckpoint, match="cannot go on in the same order: world was 2 and is 1; set it back"):
        loader.load_state_dict(loader.state_dict() | {"world": 2})
    monkeypatch.chdir(tmp_path)
    started = {"TORCHELASTIC_RUN_ID": "x", "RANK": "1", "LOCAL_RANK": "1", "GROUP_RANK": "0"}
    for name, value in (started | {"WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2"}).items():
        monkeypatch.setenv(name, value)
    assert main(["train", "scenes", *TINY, *QUIET, "devices=4", "validation=4"]) == 2
    assert "2 processes on this node and 4 in all, which is not devices=4 nodes=1" in (told := capsys.readouterr().err)
    assert "write devices=2 nodes=2" in told


def test_an_elastic_run_is_the_same_however_its_steps_are_shared_out(tmp_path):
    shares = [["devices=2", "batch=4"], ["batch=8"], ["nodes=2", "batch=1", "accumulate=4"], ["batch=4", "devices=4"]]
    runs = [load("scenes", [*TINY, "elastic=true", *flags]) for flags in shares]
    places, digests = ([of(run) for run in runs] for of in (folder.place_of, identity.digest))
    assert len({*places[:3]}) == len({*digests[:3]}) == 1 and places[3] != places[0] and digests[3] != digests[0]
    folder.settle(tmp_path, runs[0])
    folder.settle(tmp_path, runs[1])
    with pytest.raises(RunBusy, match="together was 8, is now 16"):
        folder.settle(tmp_path, runs[3])
