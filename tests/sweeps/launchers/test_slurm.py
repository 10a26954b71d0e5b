"""Launcher on SLURM: the file that sbatch gets, and its jobs, which submitit runs on this machine."""

import json
import os
import re
import signal
import time

import pytest
import submitit

from lumen.__main__ import main
from lumen.sweeps.ablate import list_trials
from lumen.sweeps.launchers import slurm
from lumen.sweeps.table_reader import read_table


@pytest.fixture
def sbatch(workdir, monkeypatch):
    """Cluster that accepts a job and never runs it; sbatch copies its file to `submitted`."""
    for name, text in {"sbatch": 'cp "$1" submitted; echo Submitted batch job 12', "srun": "exit 1"}.items():
        script = workdir / "bin" / name
        script.parent.mkdir(exist_ok=True)
        script.write_text(f"#!/bin/sh\n{text}\n")
        script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{script.parent}{os.pathsep}{os.environ['PATH']}")
    return workdir


def test_slurm_gets_one_array_of_jobs(sbatch, capsys):
    command = ["ablate", "table1", "base=scenes", "devices=2", "workers=3", "launcher=slurm", "slots=2"]
    assert main([*command, "slurm.partition=gpu", "slurm.hours=1.5"]) == 0
    options = dict(re.findall(r"#SBATCH --([\w-]+)=(.*)", (sbatch / "submitted").read_text()))
    assert options["array"] == "0-3%2" and options["signal"] == "USR1@180" and options["time"] == "90"
    assert "#SBATCH --requeue\n" in (sbatch / "submitted").read_text()
    assert options["gpus-per-node"] == "2" and options["cpus-per-task"] == "8" and options["partition"] == "gpu"
    output = capsys.readouterr().out
    assert "job 12: 4 runs" in output and "scancel 12" in output and "`lumen table table1 base=scenes" in output
    assert len(list((sbatch / "runs" / "slurm").glob("12_*/*_submitted.pkl"))) == 4


def test_slurm_job_on_a_cpu_requests_no_gpu(sbatch):
    assert main(["ablate", "table1", "base=scenes", "accelerator=cpu", "launcher=slurm", "rows=CLIP"]) == 0
    assert "gpus" not in (sbatch / "submitted").read_text()


def test_slurm_refusal_is_printed(sbatch, capsys):
    (sbatch / "bin" / "sbatch").write_text("#!/bin/sh\necho sbatch: error: no such partition >&2; exit 1\n")
    assert main(["ablate", "table1", "base=scenes", "launcher=slurm", "slurm.partition=gpuu"]) == 2
    assert "sbatch: error: no such partition" in capsys.readouterr().err


def test_slurm_without_sbatch_names_the_next_step(workdir, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(workdir))
    assert main(["ablate", "table1", "base=scenes", "launcher=slurm"]) == 2
    assert "login node" in capsys.readouterr().err


@pytest.fixture
def submit(workdir, monkeypatch):
    """Function that runs a trial as a job of submitit on this machine."""
    monkeypatch.setattr(submitit.JobEnvironment, "USR_SIG", "USR1")  # submitit may have been imported before
    monkeypatch.setenv("SUBMITIT_PREEMPT_SIGNAL", "USR1")
    executor = submitit.LocalExecutor(workdir / "jobs" / "%j")
    executor.update_parameters(timeout_min=60)
    return lambda trial: executor.submit(slurm.Job(trial))


def test_slurm_job_runs_its_trial_and_is_requeued_when_preempted(quick, submit):
    trials = [
        quick("repeated", "1", "finish", evaluation="finish"),
        quick("preempted", "75", "finish"),
        quick("timed_out", "save_on_signal", "finish"),
    ]
    jobs = [submit(trial) for trial in trials]
    while not (trials[2].run_dir / "ready").exists():
        time.sleep(0.05)
    os.kill(int((trials[2].run_dir / "launcher").read_text()), signal.SIGUSR1)  # as SLURM does before the time is up
    assert [job.result() for job in jobs] == ["done"] * 3
    assert not any(trial.pending_commands() for trial in trials)
    assert [(trial.run_dir / "attempts").read_text() for trial in trials] == ["xx"] * 3


def test_slurm_job_that_is_cancelled_saves_and_is_not_requeued(quick, submit):
    trial = quick("a", "save_on_signal", "finish")
    job = submit(trial)
    while not (trial.run_dir / "ready").exists():
        time.sleep(0.05)
    job._process.send_signal(signal.SIGTERM)
    assert "a stopped: exit code 75" in str(job.exception())
    assert (trial.run_dir / "attempts").read_text() == "x"


def test_slurm_job_that_fails_says_why_and_how_to_repeat_it(quick, submit):
    message = str(submit(quick("a", "1")).exception())
    assert "a failed: RuntimeError: out of luck" in message and "to repeat: quick runs/a 1" in message


# A cluster of one machine: sbatch runs the tasks of an array at once, and again if scontrol requeues them.
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
    "scontrol": '[ "$1" = requeue ] && touch "again$2"; echo "$@" >>scontrol_calls',
}


@pytest.fixture
def cluster(workdir, monkeypatch):
    """Directory whose commands sbatch, srun and scontrol are on the PATH."""
    for name, text in CLUSTER.items():
        script = workdir / "bin" / name
        script.parent.mkdir(exist_ok=True)
        script.write_text(f"#!/bin/bash\n{text}\n")
        script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{script.parent}{os.pathsep}{os.environ['PATH']}")
    return workdir


@pytest.mark.long
def test_slurm_resumes_a_preempted_run(cluster, wait_for, capsys):
    """From the command to the results: sbatch, srun, submitit, lumen train; then SLURM's signal, scontrol, resume."""
    small = ["size=32", "diffusion.weights=none", "batch=2", "data.images=6", "conditioning.vectors=60", "workers=0"]
    small += ["validation=2", "metrics=[]", "wandb=disabled", "sampling.steps=1", "sampling.images=1"]
    steps = ["steps=12", "every.log=1", "every.checkpoint=100", "every.validate=100", "accelerator=cpu"]
    command = ["ablate", "table1", "base=scenes", "rows=CLIP,DINO", *small, *steps, "launcher=slurm"]
    assert main(command) == 0
    table = read_table("table1", "scenes", overrides=[*small, *steps], only=["CLIP", "DINO"])
    run_dirs = [trial.run_dir for trial in list_trials(table)]
    log_file = run_dirs[0] / "metrics.jsonl"
    wait_for(lambda: log_file.exists() and len(log_file.read_text().splitlines()) > 1)
    os.kill(int((cluster / "task0").read_text()), signal.SIGUSR1)
    wait_for(lambda: all((run_dir / "metrics.json").exists() for run_dir in run_dirs))
    assert (cluster / "scontrol_calls").read_text() == "requeue 12_0\n"
    log, other = ((run_dir / "log.txt").read_text() for run_dir in run_dirs)
    assert "stopped by SIGUSR1 at step" in log and "resumes at step" in log and other.count("$ lumen train") == 1
    lines = [json.loads(line) for line in log_file.read_text().splitlines()]
    assert [line["step"] for line in lines if "train/loss" in line] == list(range(12))
    capsys.readouterr()
    assert main(command) == 0
    assert "2 runs, 2 of them finished before" in capsys.readouterr().out
