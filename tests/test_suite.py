"""The suite itself: it passes from any shell, activated or not, in front or behind, in a job of a cluster or not."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# A command of the environment by its bare name: it is on the PATH of an activated environment only.
BARE_COMMAND = re.compile(r'(command =|run\(|Popen\()\s*\[\s*"(python3?|pip|pytest|lumen|wandb|ray|torchrun|submitit)"')


def test_suite_runs_commands_by_its_own_interpreter():
    paths = [path for folder in ("tests", "benchmarks") for path in (ROOT / folder).rglob("*.py")]
    assert [path.name for path in paths if BARE_COMMAND.search(path.read_text()) and path != Path(__file__)] == []


def test_suite_receives_ctrl_c_and_is_part_of_no_job():
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert not {"SLURM_JOB_ID", "RANK", "LOCAL_RANK", "WORLD_SIZE", "WANDB_RUN_ID"} & set(os.environ)


@pytest.mark.long
def test_suite_passes_in_the_background_of_a_job_without_an_activated_environment():
    """The tests that send signals, where SIGINT and SIGHUP are ignored as in `nohup pytest &`."""
    job = {"SLURM_JOB_ID": "3", "SLURM_NTASKS": "4", "SLURM_PROCID": "1", "RANK": "1", "LOCAL_RANK": "1"}
    job |= {"WANDB_RUN_ID": "a", "WANDB_MODE": "online", "TORCHELASTIC_RUN_ID": "x", "MASTER_PORT": "1"}
    files = ["tests/test_suite.py", "tests/core/test_signals.py", "tests/sweeps/launchers/test_local.py"]

    def ignore_signals() -> None:
        for number in (signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)

    suite = subprocess.run(
        [sys.executable, "-m", "pytest", "-n", "0", "-k", "signal or suite", *files],
        cwd=ROOT,
        env=job | {"PATH": os.defpath, "LC_ALL": "C"},
        preexec_fn=ignore_signals,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert suite.returncode == 0, suite.stdout
