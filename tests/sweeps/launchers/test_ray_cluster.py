"""launcher=ray on a cluster of this machine: real tasks, real workers, and what becomes of runs when those end."""

import os
import signal
import subprocess
import sys
import threading

import pytest

# Read when ray is imported; without a token Ray would keep one in the home folder.
os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 32, "RAY_worker_niceness": "0"}
pytest.importorskip("ray")

from lumen.__main__ import main
from lumen.core.signals import Stopped
from lumen.sweeps.launchers import ray

pytestmark = pytest.mark.long

TINY = ["size=32", "diffusion.weights=none", "batch=2", "data.images=6", "conditioning.vectors=60", "validation=2"]
TINY += ["steps=2", "metrics=[]", "wandb=disabled", "sampling.steps=1", "sampling.images=1", "accelerator=cpu"]
# The cluster ends with this process.
CLUSTER = """
import sys, ray
ray.init(num_cpus=2, num_gpus=0, include_dashboard=False, log_to_driver=False)
print("address", ray.get_runtime_context().gcs_address, flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="module")
def cluster(scripts):
    """The address of a cluster with two CPUs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", scripts)
        holder = subprocess.Popen(
            [sys.executable, "-c", CLUSTER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        lines = (line for line in holder.stdout if line.startswith("address "))
        yield next(lines).split()[1]
        holder.stdin.close()
        holder.wait()


def test_two_real_runs_of_which_one_fails(cluster, place, capsys):
    flags = ["base=scenes", "rows=CLIP,DINO", *TINY, "CLIP.backbone.weights=/nowhere"]
    assert main(["ablate", "table1", *flags, "launcher=ray", f"ray.address={cluster}"]) == 1
    told = capsys.readouterr()
    assert "| CLIP | 0/1 |" in told.out and "| DINO | 1/1 |" in told.out and "[2/2] " in told.out
    assert "CLIP failed: lumen: " in told.err and "/nowhere" in told.err
    assert "to repeat: lumen train scenes backbone=clip backbone.weights=/nowhere" in told.err
    assert next(place.glob("runs/scenes/*dino*/seed0/metrics.json"))


def test_what_was_told_to_stop_is_not_tried_again_and_goes_on_later(cluster, quick, table):
    trials = [quick("a", "75", "done"), quick("b", "done")]
    ray.ray(cluster, table=table, trials=trials)
    assert [t.state for t in trials] == ["stopped", "done"] and (trials[0].home / "tries").read_text() == "x"
    ray.ray(cluster, table=table, trials=trials[:1])
    assert trials[0].state == "done"


def test_a_run_whose_worker_is_lost_is_begun_again_by_ray(cluster, quick, table, wait_for):
    trial = quick("a", "saves", "done")

    def kill():
        wait_for((trial.home / "ready").exists)
        os.kill(int((trial.home / "launcher").read_text()), signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    ray.ray(cluster, table=table, trials=[trial])
    killer.join()
    assert trial.state == "done" and (trial.home / "tries").read_text() == "xx"
    wait_for((trial.home / "saved").exists)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_has_every_run_save_and_starts_no_other(cluster, quick, table, wait_for, number):
    trials = [quick(name, "saves") for name in "abc"]

    def tell():
        wait_for(lambda: sum((trial.home / "ready").exists() for trial in trials) == 2)
        os.kill(os.getpid(), number)

    teller = threading.Thread(target=tell)
    teller.start()
    with pytest.raises(KeyboardInterrupt if number == signal.SIGINT else Stopped):
        ray.ray(cluster, table=table, trials=trials)
    teller.join()
    assert sorted((trial.home / "saved").exists() for trial in trials) == [False, True, True]
    assert [len((trial.home / "tries").read_text()) for trial in trials if trial.home.exists()] == [1, 1]
