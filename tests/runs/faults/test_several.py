"""Runs of several processes that torchrun starts on two hosts, or SLURM; the same run on fewer devices."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest


def read_records(directory: Path) -> list[list[str]]:
    """Return the image ids of each step, of all ranks together, in the order of the run; repeated steps count once."""
    steps: dict[int, dict[str, list[str]]] = {}
    for path in directory.glob("*.jsonl"):
        for line in map(json.loads, path.read_text().splitlines()):
            steps.setdefault(line["batch"], {})[path.stem] = line["samples"]
    return [sum((ranks[rank] for rank in sorted(ranks)), []) for _, ranks in sorted(steps.items())]


def read_losses(run: Path) -> dict[int, float]:
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return {line["step"]: line["train/loss"] for line in lines if "train/loss" in line}


@pytest.mark.long
@pytest.mark.parametrize("flags", [["batch=4"], ["accumulate=2"]], ids=lambda flags: flags[0])
def test_elastic_run_of_two_processes_resumes_on_one(flags, start_run, before_step, kill_self, run_dir, workdir):
    """Images and results do not depend on how the steps are divided, except for rounding."""
    assert start_run("elastic=true", world_size=2).wait() == [0, 0]
    run_directory = run_dir()
    losses, steps = read_losses(run_directory), read_records(Path("records"))
    run_directory.rename(workdir / "uninterrupted")
    Path("records").rename("records-of-two")

    start_run("elastic=true", world_size=2, callbacks=[before_step(4, kill_self, 0)]).wait()
    run = start_run("elastic=true", *flags)
    assert run.wait() == [0], run.output()
    assert f"{run_directory.relative_to(workdir)} resumes at step 4:" in run.output()
    assert "4 images a step" in run.output()
    lines = (workdir / "records" / "seen-by-0.jsonl").read_text().splitlines()
    resumed = [json.loads(line)["samples"] for line in lines][4:]  # of the last two steps, which one process has taken
    assert sum(resumed, []) == sum(steps[4:], [])
    if flags == ["batch=4"]:  # otherwise the loss of a step's last half is logged
        assert read_losses(run_directory) == pytest.approx(losses, rel=1e-5)
    results = [json.loads((run / "metrics.json").read_text()) for run in (run_directory, workdir / "uninterrupted")]
    assert results[0]["val/loss"] == pytest.approx(results[1]["val/loss"], rel=1e-4)


def slurm_environment(tasks: int, rank: int) -> dict[str, str]:
    """Return what SLURM passes to a process of a job on one node."""
    environment = {"SLURM_JOB_ID": "4242", "SLURM_JOB_NAME": "lumen", "SLURM_NTASKS": str(tasks)}
    environment |= {"SLURM_NTASKS_PER_NODE": str(tasks), "SLURM_NODELIST": "127.0.0.1", "SLURM_NODEID": "0"}
    return environment | {"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)}


@pytest.mark.long
def test_slurm_job_resumes_when_it_is_requeued(
    start_run, free_port, before_step, kill_self, hash_run, reference_hashes
):
    def job() -> list[dict[str, str]]:
        shared = {"GLOO_SOCKET_IFNAME": "lo", "MASTER_PORT": str(free_port())}
        return [slurm_environment(2, rank) | shared for rank in range(2)]

    run = start_run(world_size=2, environments=job(), callbacks=[before_step(5, kill_self, 1)])
    codes = run.wait(60)
    assert codes[0] > 0 and codes[1] == -signal.SIGKILL
    run = start_run(world_size=2, environments=job())
    assert run.wait() == [0, 0] and "resumes at step 4" in run.output(), run.output()
    assert hash_run() == reference_hashes(2)


@pytest.mark.long
def test_slurm_job_of_too_few_processes_is_refused(start_run):
    run = start_run(world_size=2, environments=[slurm_environment(1, 0)])
    assert run.wait() == [2]
    assert "Change devices" in run.output()


def run_ip(arguments: str) -> bool:
    return subprocess.run(["ip", *arguments.split()], capture_output=True).returncode == 0


@pytest.fixture
def hosts() -> Iterator[list[str]]:
    """Two hosts with an address each, joined by a cable: network namespaces of this machine."""
    names = [f"lumen{os.getpid()}{end}" for end in "ab"]
    try:
        created = shutil.which("ip") and all(run_ip(f"netns add {name}") for name in names)
        if not created or not run_ip(f"link add eth0 netns {names[0]} type veth peer name eth0 netns {names[1]}"):
            pytest.skip("this system does not let the user create network namespaces")
        for number, name in enumerate(names, 1):
            assert run_ip(f"-n {name} addr add 10.77.0.{number}/24 dev eth0")
            assert run_ip(f"-n {name} link set eth0 up") and run_ip(f"-n {name} link set lo up")
        yield names
    finally:
        for name in names:
            run_ip(f"netns del {name}")


@pytest.mark.slow
def test_torchrun_on_two_hosts_resumes(hosts, short_command, run_dir, hash_run, reference_hashes, workdir):
    """Killed on both hosts after a checkpoint, the repeated command ends as two processes of one host do."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1"]
    torchrun += ["--rdzv-backend", "c10d", "--rdzv-endpoint", "10.77.0.1:29500"]
    environment = os.environ | {"GLOO_SOCKET_IFNAME": "eth0", "OMP_NUM_THREADS": "1"}
    log = Path("hosts.log")

    def start() -> list[subprocess.Popen]:
        commands = []
        for number, host in enumerate(hosts, 1):  # their names cannot be resolved, so each gets its address
            options = ["--local-addr", f"10.77.0.{number}", "--rdzv-conf", f"is_host={number == 1}", "-m", "lumen"]
            command = ["ip", "netns", "exec", host, *torchrun, *options]
            commands.append([*command, *short_command("nodes=2", "devices=1")])
        with open(log, "a") as file:
            return [subprocess.Popen(command, stdout=file, stderr=file, env=environment) for command in commands]

    processes = start()
    while not list(workdir.glob("runs/scenes/*/seed0/checkpoints/step00000002.ckpt")):
        assert all(process.poll() is None for process in processes), log.read_text()
        time.sleep(0.05)
    for host in hosts:
        pids = subprocess.run(["ip", "netns", "pids", host], capture_output=True, text=True).stdout.split()
        for pid in pids:
            os.kill(int(pid), signal.SIGKILL)
    assert all(process.wait(30) for process in processes)
    assert [process.wait(300) for process in start()] == [0, 0], log.read_text()
    assert "resumes at step" in log.read_text()
    parts = ("weights", "optimizer", "average", "history", "metrics")
    assert {part: hash_run()[part] for part in parts} == {part: reference_hashes(2)[part] for part in parts}
