"""Jobs of SLURM: what sbatch is given, and what a job does, run by submitit on this machine."""

import json
import os
import re
import signal
import time

import pytest
import submitit

from lumen.__main__ import main
from lumen.sweeps.ablate import trials
from lumen.sweeps.launchers import slurm
from lumen.sweeps.table import read


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
    assert "#SBATCH --requeue\n" in (sbatch / "given").read_text()
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


# A cluster of one machine: sbatch runs the tasks of an array at once, and again where scontrol says so.
CLUSTER = {
    "sbatch": """
count=$(sed -n 's/^#SBATCH --array=0-\\([0-9]*\\)%.*/\\1/p' "$1")
for task in $(seq 0 $count); do
    export SLURM_JOB_ID=1$task SLURM_ARRAY_JOB_ID=12 SLURM_ARRAY_TASK_ID=$task SLURM_JOB_NAME=lumen
    export SLURM_NTASKS=1 SLURM_PROCID=0 SLURM_LOCALID=0 SLURM_NODEID=0 SLURM_JOB_NUM_NODES=1 SLURM_JOB_NODELIST=here
    (timeout 600 bash "$1"; while rm "again12_$task"; do timeout 600 bash "$1"; done) >>"job$task" 2>&1 &
done
echo Submitted batch job 12
""",
    "srun": """
while [ "${1#-}" != "$1" ]; do case $1 in --output|--error) shift 2;; *) shift;; esac; done
echo $$ >"task$SLURM_ARRAY_TASK_ID"
exec "$@"
""",
    "scontrol": '[ "$1" = requeue ] && touch "again$2"; echo "$@" >>controlled',
}


@pytest.fixture
def cluster(place, monkeypatch):
    for name, text in CLUSTER.items():
        script = place / "bin" / name
        script.parent.mkdir(exist_ok=True)
        script.write_text(f"#!/bin/bash\n{text}\n")
        script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{script.parent}{os.pathsep}{os.environ['PATH']}")
    return place


@pytest.mark.long
def test_real_runs_of_an_sbatch_file_of_which_one_is_preempted(cluster, wait_for, capsys):
    """From the command to the figures: sbatch, srun, submitit, lumen train; SLURM's signal, scontrol, on it goes."""
    small = ["size=32", "diffusion.weights=none", "batch=2", "data.images=6", "conditioning.vectors=60", "workers=0"]
    small += ["validation=2", "metrics=[]", "wandb=disabled", "sampling.steps=1", "sampling.images=1"]
    steps = ["steps=12", "every.log=1", "every.checkpoint=100", "every.validate=100", "accelerator=cpu"]
    command = ["ablate", "table1", "base=scenes", "rows=CLIP,DINO", *small, *steps, "launcher=slurm"]
    assert main(command) == 0
    table = read("table1", "scenes", flags=[*small, *steps], only=["CLIP", "DINO"])
    homes = [trial.home for trial in trials(table)]
    journal = homes[0] / "metrics.jsonl"
    wait_for(lambda: journal.exists() and len(journal.read_text().splitlines()) > 1)
    os.kill(int((cluster / "task0").read_text()), signal.SIGUSR1)
    wait_for(lambda: all((home / "metrics.json").exists() for home in homes))
    assert (cluster / "controlled").read_text() == "requeue 12_0\n"
    log, other = ((home / "log.txt").read_text() for home in homes)
    assert "stopped by SIGUSR1 at step" in log and "continues at step" in log and other.count("$ lumen train") == 1
    lines = [json.loads(line) for line in journal.read_text().splitlines()]
    assert [line["step"] for line in lines if "train/loss" in line] == list(range(12))
    capsys.readouterr()
    assert main(command) == 0
    assert "2 runs, 2 of them done before" in capsys.readouterr().out
