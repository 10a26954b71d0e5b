"""SLURM: an array of jobs, one per run, queued again when preempted; what sbatch reads of SBATCH_* stays in force."""

import os
import shutil
import signal
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

from lumen.core.errors import Mistake
from lumen.core.registry import launchers
from lumen.sweeps.table import Table
from lumen.sweeps.trial import PREEMPTED, Trial

# lumen train saves on USR1. Some clusters signal every process of a job: submitit's own USR2 would end the run.
SIGNAL = signal.SIGUSR1
NOTICE = 180  # seconds before the time is up, for a run to save in
TIMES = 100  # that a job may run out of time and be queued again; each time the run has come further


@launchers.register
def slurm(
    partition: str | None = None,
    hours: float = 24,
    gpus: int | None = None,
    cpus: int | None = None,
    memory: int | None = None,
    slots: int | None = None,
    *,
    table: Table,
    trials: list[Trial],
) -> None:
    """Submits the runs and returns.

    Args:
        gpus, cpus: of one run; by default as many as its devices and workers want.
        memory: of one run, in GB; by default the cluster's.
        slots: runs at a time; by default as many as SLURM will.

    Raises:
        Mistake: no submitit, or no SLURM here, or SLURM refuses.
    """
    submitit, config = _submitit(), table.config(table.rows[0], 0)
    if gpus is None:
        gpus = 0 if config.accelerator == "cpu" else config.devices
    executor = submitit.AutoExecutor(Path(config.runs) / "slurm" / "%j", cluster="slurm", slurm_max_num_timeout=TIMES)
    executor.update_parameters(
        name=f"lumen-{table.name}",
        timeout_min=max(1, round(hours * 60)),
        gpus_per_node=gpus or None,  # a cluster without GPUs refuses to be asked for none
        cpus_per_task=cpus or config.devices * (config.workers + 1),
        mem_gb=memory,
        slurm_partition=partition,
        slurm_array_parallelism=slots or len(trials),
        # requeue: some clusters let no job be queued again that does not ask for it
        slurm_additional_parameters={"signal": f"{SIGNAL.name[3:]}@{NOTICE}", "requeue": True},
        slurm_setup=[f"export SUBMITIT_PREEMPT_SIGNAL={SIGNAL.name[3:]}"],
    )
    try:
        with executor.batch():
            jobs = [executor.submit(Job(trial)) for trial in trials]
    except submitit.core.utils.FailedJobError as error:
        raise Mistake(f"SLURM takes no job: {' '.join(str(error).split())}") from None
    for trial in trials:
        trial.state = "sent"
    number = jobs[0].job_id.partition("_")[0]
    print(
        f"job {number}: {len(trials)} runs; `squeue -j {number}` shows them, `scancel {number}` stops them.\n"
        f"Each writes log.txt in its run folder; {jobs[0].paths.folder.parent}/{number}* says why one failed.\n"
        f"`{table.command.replace('lumen ablate', 'lumen table', 1)}` prints the rows that are done; this command "
        "sends again what is not."
    )


def _submitit() -> ModuleType:
    if shutil.which("sbatch") is None:
        raise Mistake("launcher=slurm needs sbatch, and there is none here; repeat this on a login node of a cluster.")
    try:
        import submitit
    except ImportError:
        raise Mistake("launcher=slurm needs submitit; get it with: pip install 'lumen[slurm]'.") from None
    return submitit


class Job:
    """What one job of the array does."""

    def __init__(self, trial: Trial):
        self.trial, self.child, self.ended = trial, None, False

    def __call__(self) -> str:
        signal.signal(signal.SIGTERM, self._end)
        for child in self.trial.processes():
            self.child = child
            child.wait()
        if self.trial.code == PREEMPTED and not self.ended:
            signal.raise_signal(SIGNAL)  # submitit takes it for its own: checkpoint(), then queued again
        if self.trial.state in ("failed", "stopped"):
            raise RuntimeError(self.trial.report())
        return self.trial.state

    def checkpoint(self) -> Any:
        """What submitit queues once the run has saved: the same trial, which goes on."""
        from submitit.helpers import DelayedSubmission

        if self.child is not None:
            self.child.send_signal(SIGNAL)
            # Within a signal's handler, so Popen's own wait may be under way and would never come back.
            with suppress(ChildProcessError):
                os.waitid(os.P_PID, self.child.pid, os.WEXITED | os.WNOWAIT)
        return DelayedSubmission(Job(replace(self.trial, state="waiting", failures={}, code=0)))

    def _end(self, number: int, _: Any) -> None:
        """scancel, or SLURM itself, which queues again what it preempts so: the run may save, and that is all."""
        self.ended = True
        if self.child is not None:
            self.child.send_signal(number)
