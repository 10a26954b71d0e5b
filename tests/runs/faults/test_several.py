"""Several processes, however they are started: by torchrun on two machines, by SLURM; and the same run on fewer."""

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

pytestmark = pytest.mark.long


def seen(place: Path) -> list[tuple[int, list[str]]]:
    """The samples of each step, of all ranks together, in the order of the run; a step seen twice counts once."""
    steps: dict[int, dict[str, str]] = {}
    for path in place.glob("*.jsonl"):
        for line in map(json.loads, path.read_text().splitlines()):
            steps.setdefault(line["batch"], {})[path.stem] = line["samples"]
    return [sum((by[rank] for rank in sorted(by)), []) for _, by in sorted(steps.items())]


def losses(place: Path) -> dict[int, float]:
    lines = map(json.loads, (place / "metrics.jsonl").read_text().splitlines())
    return {line["step"]: line["train/loss"] for line in lines if "train/loss" in line}


@pytest.mark.parametrize("fewer", [["batch=4"], ["accumulate=2"]], ids=lambda flags: flags[0])
def test_two_processes_become_one(fewer, begin, at, dies, made, place):
    """What an elastic run has seen and come to does not depend on how its steps are shared out, but for rounding."""
    assert begin("elastic=true", world=2).wait() == [0, 0]
    made = made()
    whole, steps = losses(made), seen(Path("seen"))
    made.rename(place / "whole")
    Path("seen").rename("seen-by-two")

    run = begin("elastic=true", world=2, watchers=[at(4, dies, 0)])
    run.wait()
    run = begin("elastic=true", *fewer)
    assert run.wait() == [0], run.said()
    assert f"{made.relative_to(place)} continues at step 4:" in run.said() and "4 images a step" in run.said()
    alone = [line["samples"] for line in map(json.loads, (place / "seen" / "seen-by-0.jsonl").read_text().splitlines())]
    alone = alone[4:]  # of the last two steps, which one process has taken
    assert sum(alone, []) == sum(steps[4:], [])
    if fewer == ["batch=4"]:  # else the loss of a step's last half is logged
        assert losses(made) == pytest.approx(whole, rel=1e-5)
    ends = [json.loads((run / "metrics.json").read_text())["val/loss"] for run in (made, place / "whole")]
    assert ends[0] == pytest.approx(ends[1], rel=1e-4)


def test_slurm_starts_the_ranks(begin, free_port, at, dies, result, reference):
    """By the environment of its jobs, as Lightning reads it; a rank is killed, and the job queued again."""

    def job() -> list[dict[str, str]]:
        shared = {"SLURM_JOB_ID": "4242", "SLURM_JOB_NAME": "lumen", "SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2"}
        shared |= {"SLURM_NODELIST": "127.0.0.1", "SLURM_NODEID": "0", "GLOO_SOCKET_IFNAME": "lo"}
        shared |= {"MASTER_PORT": str(free_port())}
        return [shared | {"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)} for rank in range(2)]

    codes = begin(world=2, ranks=job(), watchers=[at(5, dies, 1)]).wait(60)
    assert codes[0] > 0 and codes[1] == -signal.SIGKILL
    run = begin(world=2, ranks=job())
    assert run.wait() == [0, 0] and "continues at step 4" in run.said(), run.said()
    assert result() == reference(2)


def test_slurm_starts_too_few(begin):
    job = {"SLURM_JOB_ID": "4242", "SLURM_JOB_NAME": "lumen", "SLURM_NTASKS": "1", "SLURM_NTASKS_PER_NODE": "1"}
    job |= {"SLURM_NODELIST": "127.0.0.1", "SLURM_NODEID": "0", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}
    run = begin(world=2, ranks=[job])
    assert run.wait() == [2]
    assert "this machine cannot be used as asked" in run.said() and "Change devices" in run.said()


def ip(words: str) -> bool:
    return subprocess.run(["ip", *words.split()], capture_output=True).returncode == 0


@pytest.fixture
def hosts() -> Iterator[list[str]]:
    """Two hosts with an address each, joined by a cable: network namespaces of this machine."""
    names = [f"lumen{os.getpid()}{end}" for end in "ab"]
    try:
        made = shutil.which("ip") and all(ip(f"netns add {name}") for name in names)
        if not made or not ip(f"link add eth0 netns {names[0]} type veth peer name eth0 netns {names[1]}"):
            pytest.skip("this system lets nobody make network namespaces")
        for number, name in enumerate(names, 1):
            assert ip(f"-n {name} addr add 10.77.0.{number}/24 dev eth0")
            assert ip(f"-n {name} link set eth0 up") and ip(f"-n {name} link set lo up")
        yield names
    finally:
        for name in names:
            ip(f"netns del {name}")


def test_torchrun_on_two_hosts(hosts, made, short, reference, hashes, place):
    """Killed on both after a checkpoint, and begun again, they end as two processes of one host do."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1"]
    torchrun += ["--rdzv-backend", "c10d", "--rdzv-endpoint", "10.77.0.1:29500"]
    environment = os.environ | {"GLOO_SOCKET_IFNAME": "eth0", "OMP_NUM_THREADS": "1"}

    log = Path("hosts.log")

    def begin() -> list[subprocess.Popen]:
        commands = []
        for number, host in enumerate(hosts, 1):  # whose names nobody knows here, so each is told its address
            here = ["--local-addr", f"10.77.0.{number}", "--rdzv-conf", f"is_host={number == 1}", "-m", "lumen"]
            commands.append(["ip", "netns", "exec", host, *torchrun, *here, *short(1, "nodes=2", "devices=1")])
        with open(log, "a") as told:
            return [subprocess.Popen(words, stdout=told, stderr=told, env=environment) for words in commands]

    run = begin()
    while not list(place.glob("runs/scenes/*/seed0/checkpoints/step00000002.ckpt")):
        assert all(each.poll() is None for each in run), log.read_text()
        time.sleep(0.05)
    for host in hosts:
        pids = subprocess.run(["ip", "netns", "pids", host], capture_output=True, text=True).stdout.split()
        for pid in pids:
            os.kill(int(pid), signal.SIGKILL)
    assert all(each.wait(30) for each in run)
    assert [each.wait(300) for each in begin()] == [0, 0], log.read_text()
    assert "continues at step" in log.read_text()
    parts = ("weights", "optimizer", "average", "history", "figures")
    assert {part: hashes(made())[part] for part in parts} == {part: reference(2)[part] for part in parts}
