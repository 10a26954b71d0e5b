"""Launcher on Ray, with a module in place of ray that makes the same calls at once in this process."""

import sys
from types import ModuleType, SimpleNamespace

import pytest

from lumen.__main__ import main
from lumen.sweeps.launchers import ray


class RayError(Exception):
    pass


class Task(tuple):
    __hash__ = object.__hash__


@pytest.fixture
def requests(monkeypatch):
    """Arguments of all calls of the fake ray; a trial that is called lost dies with its node."""
    arguments = {}

    def get(task):
        function, trial, directory = task
        if trial.name == "lost":
            raise RayError("The node died.")
        return function(trial, directory)

    def remote(**resources):
        arguments.update(resources)
        return lambda function: SimpleNamespace(remote=lambda trial, directory: Task((function, trial, directory)))

    fake = ModuleType("ray")
    fake.init, fake.shutdown = lambda **options: arguments.update(options), lambda: arguments.update(shut_down=True)
    fake.nodes = lambda: [{"Resources": {"CPU": 2.0, "GPU": 1.0}}]
    fake.remote, fake.get, fake.wait = remote, get, lambda tasks, timeout: (tasks[:1], tasks[1:])
    fake.exceptions = SimpleNamespace(RayError=RayError)
    monkeypatch.setitem(sys.modules, "ray", fake)
    return arguments


def test_ray_runs_every_trial_as_a_task_and_returns_its_outcome(quick, table, requests, capsys):
    trials = [quick("a", "finish", evaluation="finish"), quick("b", "1"), quick("lost", "finish")]
    ray.ray(gpus=1, table=table, trials=trials)
    assert [t.state for t in trials] == ["done", "failed", "failed"]
    assert "out of luck" in trials[1].failure_report() and "The node died." in trials[2].failure_report()
    assert requests["address"] == "auto" and requests["num_gpus"] == 1 and requests["num_cpus"] >= 1
    assert requests["shut_down"] and "[3/3] lost: failed: The node died." in capsys.readouterr().out


def test_ray_cluster_without_such_a_machine_is_reported(quick, table, requests, capsys):
    ray.ray(gpus=2, table=table, trials=[quick("a", "finish")])
    assert "no machine of the cluster has 2 GPUs and 1 CPUs" in capsys.readouterr().out


def test_ray_without_a_cluster_names_the_next_step(workdir, monkeypatch, capsys):
    def init(**options):
        raise ConnectionError("Could not find any running Ray instance.")

    fake = ModuleType("ray")
    fake.init, fake.exceptions = init, SimpleNamespace(RayError=RayError)
    monkeypatch.setitem(sys.modules, "ray", fake)
    assert main(["ablate", "table1", "base=scenes", "launcher=ray"]) == 2
    assert "`ray start --head`" in capsys.readouterr().err
