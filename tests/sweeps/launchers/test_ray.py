"""Tasks of Ray, through a module that stands in for it: the same calls, run at once in this process."""

import sys
from types import ModuleType, SimpleNamespace

import pytest

from lumen.__main__ import main
from lumen.sweeps.launchers import ray


class RayError(Exception):
    pass


@pytest.fixture
def cluster(monkeypatch):
    """What launcher=ray uses of ray; a trial that is called lost dies with its node."""
    asked = {}

    def get(ref):
        task, trial, place = ref
        if trial.name == "lost":
            raise RayError("The node died.")
        return task(trial, place)

    def remote(**resources):
        asked.update(resources)
        return lambda task: SimpleNamespace(remote=lambda trial, place: Ref((task, trial, place)))

    fake = ModuleType("ray")
    fake.init, fake.shutdown = lambda **options: asked.update(options), lambda: asked.update(over=True)
    fake.nodes = lambda: [{"Resources": {"CPU": 2.0, "GPU": 1.0}}]
    fake.remote, fake.get, fake.wait = remote, get, lambda refs, timeout: (refs[:1], refs[1:])
    fake.exceptions = SimpleNamespace(RayError=RayError)
    monkeypatch.setitem(sys.modules, "ray", fake)
    return asked


class Ref(tuple):
    __hash__ = object.__hash__


def test_every_trial_is_a_task_and_what_came_of_it_comes_back(quick, table, cluster, capsys):
    trials = [quick("a", "done", then="done"), quick("b", "1"), quick("lost", "done")]
    ray.ray(gpus=1, table=table, trials=trials)
    assert [t.state for t in trials] == ["done", "failed", "failed"]
    assert "out of luck" in trials[1].report() and "The node died." in trials[2].report()
    assert cluster["address"] == "auto" and cluster["num_gpus"] == 1 and cluster["num_cpus"] >= 1 and cluster["over"]
    assert "[3/3] lost: failed: The node died." in capsys.readouterr().out


def test_what_no_machine_of_the_cluster_has_is_said(quick, table, cluster, capsys):
    ray.ray(gpus=2, table=table, trials=[quick("a", "done")])
    assert "no machine of the cluster has 2 GPUs and 1 CPUs, so runs wait" in capsys.readouterr().out


def test_without_a_cluster_the_next_step_is_said(place, monkeypatch, capsys):
    def init(**options):
        raise ConnectionError("Could not find any running Ray instance.")

    fake = ModuleType("ray")
    fake.init, fake.exceptions = init, SimpleNamespace(RayError=RayError)
    monkeypatch.setitem(sys.modules, "ray", fake)
    assert main(["ablate", "table1", "base=scenes", "launcher=ray"]) == 2
    assert "begin one with `ray start --head`" in capsys.readouterr().err
