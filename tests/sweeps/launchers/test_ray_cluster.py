"""Launcher on a Ray cluster of this machine: real tasks and workers, and runs when those end."""

import os
import signal
import subprocess
import sys
import threading

import pytest

# Read when ray is imported; without a token Ray would write one to the home directory.
os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 32, "RAY_worker_niceness": "0"}
pytest.importorskip("ray")

from lumen.__main__ import main
from lumen.core.signals import SignalInterrupt
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
    """Address of a cluster with two CPUs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", scripts)
        holder = subprocess.Popen(
            [sys.executable, "-c", CLUSTER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        lines = (line for line in holder.stdout if line.startswith("address "))
        yield next(lines).split()[1]
        holder.stdin.close()
        holder.wait()


def test_ray_runs_two_trainings_of_which_one_fails(cluster, workdir, capsys):
    overrides = ["base=scenes", "rows=CLIP,DINO", *TINY, "CLIP.backbone.weights=/nowhere"]
    assert main(["ablate", "table1", *overrides, "launcher=ray", f"ray.address={cluster}"]) == 1
    output = capsys.readouterr()
    assert "| CLIP | 0/1 |" in output.out and "| DINO | 1/1 |" in output.out and "[2/2] " in output.out
    assert "CLIP failed: lumen: " in output.err and "/nowhere" in output.err
    assert "to repeat: lumen train scenes backbone=clip backbone.weights=/nowhere" in output.err
    assert next(workdir.glob("runs/scenes/*dino*/seed0/metrics.json"))


def test_ray_resumes_a_stopped_trial_only_when_repeated(cluster, quick, table):
    trials = [quick("a", "75", "finish"), quick("b", "finish")]
    ray.ray(cluster, table=table, trials=trials)
    assert [t.state for t in trials] == ["stopped", "done"] and (trials[0].run_dir / "attempts").read_text() == "x"
    ray.ray(cluster, table=table, trials=trials[:1])
    assert trials[0].state == "done"


def test_ray_restarts_a_trial_whose_worker_is_killed(cluster, quick, table, wait_for):
    trial = quick("a", "save_on_signal", "finish")

    def kill():
        wait_for((trial.run_dir / "ready").exists)
        os.kill(int((trial.run_dir / "launcher").read_text()), signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    ray.ray(cluster, table=table, trials=[trial])
    killer.join()
    assert trial.state == "done" and (trial.run_dir / "attempts").read_text() == "xx"
    wait_for((trial.run_dir / "saved").exists)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ray_passes_a_signal_to_every_run_and_starts_no_other(cluster, quick, table, wait_for, number):
    trials = [quick(name, "save_on_signal") for name in "abc"]

    def send():
        wait_for(lambda: sum((trial.run_dir / "ready").exists() for trial in trials) == 2)
        os.kill(os.getpid(), number)

    sender = threading.Thread(target=send)
    sender.start()
    with pytest.raises(KeyboardInterrupt if number == signal.SIGINT else SignalInterrupt):
        ray.ray(cluster, table=table, trials=trials)
    sender.join()
    assert sorted((trial.run_dir / "saved").exists() for trial in trials) == [False, True, True]
    assert [len((trial.run_dir / "attempts").read_text()) for trial in trials if trial.run_dir.exists()] == [1, 1]
