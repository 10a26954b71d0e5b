"""Jobs of SLURM: what sbatch is given, and what a job does, run by submitit on this machine."""

import os
import re
import signal
import time

import pytest
import submitit

from lumen.__main__ import main
from lumen.launchers import slurm


@pytest.fixture
def sbatch(place, monkeypatch):
    """A cluster as far as sbatch."""
    for name, text in {"sbatch": 'cp "$1" given; echo Submitted batch job 12', "srun": "exit 1"}.items():
        script = place / "bin" / name
        script.parent.mkdir(exist_ok=True)
        script.write_text(f"#!/bin/sh\n{text}\n")
        script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{script.parent}{os.pathsep}{os.environ['PATH']}")
    return place


def test_a_sweep_is_one_array_of_jobs(sbatch, capsys):
    command = ["ablate", "table1", "base=scenes", "devices=2", "workers=3", "launcher=slurm", "slots=2"]
    assert main([*command, "slurm.partition=gpu", "slurm.hours=1.5"]) == 0
    given = dict(re.findall(r"#SBATCH --([\w-]+)=(.*)", (sbatch / "given").read_text()))
    assert given["array"] == "0-3%2" and given["signal"] == "USR1@180" and given["time"] == "90"
    assert given["gpus-per-node"] == "2" and given["cpus-per-task"] == "8" and given["partition"] == "gpu"
    told = capsys.readouterr().out
    assert "job 12: 4 runs" in told and "scancel 12" in told and "`lumen table table1 base=scenes" in told
    assert len(list((sbatch / "runs" / "slurm").glob("12_*/*_submitted.pkl"))) == 4


def test_a_job_on_a_cpu_asks_for_no_gpu(sbatch):
    assert main(["ablate", "table1", "base=scenes", "accelerator=cpu", "launcher=slurm", "rows=CLIP"]) == 0
    assert "gpus" not in (sbatch / "given").read_text()


def test_what_slurm_refuses_is_told(sbatch, capsys):
    (sbatch / "bin" / "sbatch").write_text("#!/bin/sh\necho sbatch: error: no such partition >&2; exit 1\n")
    assert main(["ablate", "table1", "base=scenes", "launcher=slurm", "slurm.partition=gpuu"]) == 2
    assert "lumen: SLURM takes no job: sbatch: error: no such partition" in capsys.readouterr().err


def test_without_slurm_the_next_step_is_said(place, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(place))
    assert main(["ablate", "table1", "base=scenes", "launcher=slurm"]) == 2
    assert "repeat this on a login node" in capsys.readouterr().err


@pytest.fixture
def submit(place, monkeypatch):
    monkeypatch.setattr(submitit.JobEnvironment, "USR_SIG", "USR1")  # submitit may have been imported before
    monkeypatch.setenv("SUBMITIT_PREEMPT_SIGNAL", "USR1")
    executor = submitit.LocalExecutor(place / "jobs" / "%j")
    executor.update_parameters(timeout_min=60)
    return lambda trial: executor.submit(slurm.Job(trial))


def test_a_job_runs_its_trial_and_is_queued_again_when_preempted(quick, submit):
    trials = [quick("done", "1", "done", then="done"), quick("preempted", "75", "done"), quick("told", "saves", "done")]
    jobs = [submit(trial) for trial in trials]
    while not (trials[2].home / "ready").exists():
        time.sleep(0.05)
    os.kill(int((trials[2].home / "launcher").read_text()), signal.SIGUSR1)  # as SLURM does before the time is up
    assert [job.result() for job in jobs] == ["done"] * 3
    assert not any(trial.left() for trial in trials)
    assert [(trial.home / "tries").read_text() for trial in trials] == ["xx"] * 3


def test_a_job_that_is_cancelled_saves_and_is_not_queued_again(quick, submit):
    trial = quick("a", "saves", "done")
    job = submit(trial)
    while not (trial.home / "ready").exists():
        time.sleep(0.05)
    job._process.send_signal(signal.SIGTERM)
    assert "a stopped: exit code 75" in str(job.exception())
    assert (trial.home / "tries").read_text() == "x"


def test_a_job_that_fails_says_what_and_how_to_repeat_it(quick, submit):
    said = str(submit(quick("a", "1")).exception())
    assert "a failed: RuntimeError: out of luck" in said and "to repeat: quick runs/a 1" in said
