"""SLURM: an array of jobs, one per run, requeued when preempted; SBATCH_* variables stay in force."""

import os
import shutil
import signal
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

from lumen.core.errors import Mistake
from lumen.core.ranges import Count, Range
from lumen.core.registry import launchers
from lumen.core.signals import SIGNAL_EXIT_CODE
from lumen.sweeps.table import Table
from lumen.sweeps.trial import Trial

# lumen train saves on USR1. Some clusters signal every process of a job: submitit's own USR2 would end the run.
PREEMPTION_SIGNAL = signal.SIGUSR1
NOTICE_SECONDS = 180  # between the signal and the end of the job's time, for a run to save
MAX_TIMEOUTS = 100  # times that a job may run out of time and be requeued; each time the run has advanced


@launchers.register
def slurm(
    partition: str | None = None,
    hours: Annotated[float, Range(0.01, 100_000)] = 24,
    gpus: Annotated[int, Range(0, 1024)] | None = None,
    cpus: Annotated[int, Range(1, 100_000)] | None = None,
    memory: Count | None = None,
    slots: Annotated[int, Range(1, 10_000)] | None = None,
    *,
    table: Table,
    trials: list[Trial],
) -> None:
    """Submit the runs and return.

    Args:
        partition: Partition of the cluster; by default the cluster's.
        hours: Time limit of one job.
        gpus: GPUs of one run; by default its devices.
        cpus: CPUs of one run; by default as many as its processes and workers.
        memory: Memory of one run in GB; by default the cluster's.
        slots: Runs at a time; by default as many as SLURM allows.

    Raises:
        Mistake: submitit is not installed, this machine has no SLURM, or SLURM refuses the jobs.
    """
    submitit, config = _import_submitit(), table.config(table.rows[0], 0)
    if gpus is None:
        gpus = 0 if config.accelerator == "cpu" else config.devices
    executor = submitit.AutoExecutor(
        Path(config.runs) / "slurm" / "%j", cluster="slurm", slurm_max_num_timeout=MAX_TIMEOUTS
    )
    executor.update_parameters(
        name=f"lumen-{table.name}",
        timeout_min=max(1, round(hours * 60)),
        gpus_per_node=gpus or None,  # a cluster without GPUs refuses a request for 0
        cpus_per_task=cpus or config.devices * (config.workers + 1),
        mem_gb=memory,
        slurm_partition=partition,
        slurm_array_parallelism=slots or len(trials),
        # requeue: some clusters requeue only jobs that ask for it
        slurm_additional_parameters={"signal": f"{PREEMPTION_SIGNAL.name[3:]}@{NOTICE_SECONDS}", "requeue": True},
        slurm_setup=[f"export SUBMITIT_PREEMPT_SIGNAL={PREEMPTION_SIGNAL.name[3:]}"],
    )
    try:
        with executor.batch():
            jobs = [executor.submit(Job(trial)) for trial in trials]
    except submitit.core.utils.FailedJobError as error:
        raise Mistake(f"SLURM refuses the jobs: {' '.join(str(error).split())}") from None
    for trial in trials:
        trial.state = "submitted"
    print(_next_steps(jobs[0], len(trials), table))


def _next_steps(job: Any, count: int, table: Table) -> str:
    """Return a message about the array that a job belongs to, and the commands to follow it."""
    number = job.job_id.partition("_")[0]
    return (
        f"job {number}: {count} runs; `squeue -j {number}` lists them, `scancel {number}` stops them.\n"
        f"Each run writes log.txt in its run directory; {job.paths.folder.parent}/{number}* tell why one failed.\n"
        f"`{table.command.replace('lumen ablate', 'lumen table', 1)}` prints the finished rows; repeat this command to "
        "submit the others again."
    )


def _import_submitit() -> ModuleType:
    if shutil.which("sbatch") is None:
        raise Mistake(
            "launcher=slurm needs sbatch, which this machine does not have; repeat this on a login node of a cluster."
        )
    try:
        import submitit
    except ImportError:
        raise Mistake("launcher=slurm needs submitit; install it with: pip install 'lumen[slurm]'.") from None
    return submitit


class Job:
    """Job of the array: it runs one trial."""

    def __init__(self, trial: Trial):
        self.trial, self.process, self.terminated = trial, None, False

    def __call__(self) -> str:
        """Run the trial and return its state.

        Raises:
            RuntimeError: The trial failed, or was stopped.
        """
        signal.signal(signal.SIGTERM, self._terminate)
        for process in self.trial.run():
            self.process = process
            process.wait()
        if self.trial.exit_code == SIGNAL_EXIT_CODE and not self.terminated:
            signal.raise_signal(PREEMPTION_SIGNAL)  # submitit handles it as its own: checkpoint(), then requeue
        if self.trial.state in ("failed", "stopped"):
            raise RuntimeError(self.trial.failure_report())
        return self.trial.state

    def checkpoint(self) -> Any:
        """Have the run save, and return the job that submitit requeues: the same trial, which resumes."""
        from submitit.helpers import DelayedSubmission

        if self.process is not None:
            self.process.send_signal(PREEMPTION_SIGNAL)
            # This is a signal handler: Popen.wait may be under way below it, and a second one would never return.
            with suppress(ChildProcessError):
                os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOWAIT)
        return DelayedSubmission(Job(replace(self.trial, state="waiting", failures={}, exit_code=0)))

    def _terminate(self, number: int, _: Any) -> None:
        """Have the run save and end. The signal is scancel's, or SLURM's own, which then requeues the job itself."""
        self.terminated = True
        if self.process is not None:
            self.process.send_signal(number)
