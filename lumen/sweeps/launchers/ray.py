"""Ray: one task per run on a running cluster, whose machines share the current directory."""

import os
import signal
import time
from types import ModuleType
from typing import Annotated, Any

from lumen.core.errors import Mistake
from lumen.core.ranges import Range
from lumen.core.registry import launchers
from lumen.sweeps.interrupts import capture_signals, reraise
from lumen.sweeps.progress import ProgressTable
from lumen.sweeps.table import Table
from lumen.sweeps.trial import Trial

GRACE_SECONDS = 120  # for the runs to save when a signal ends the sweep


@launchers.register
def ray(
    address: str = "auto",
    gpus: Annotated[int, Range(0, 1024)] | None = None,
    cpus: Annotated[int, Range(1, 100_000)] | None = None,
    *,
    table: Table,
    trials: list[Trial],
) -> None:
    """Run trials as tasks and wait until all have ended. Ray restarts a run elsewhere if its machine is lost.

    Args:
        address: Address of the cluster.
        gpus: GPUs of one run; by default its devices.
        cpus: CPUs of one run; by default as many as its processes and workers.

    Raises:
        Mistake: Ray is not installed, or no cluster answers.
        KeyboardInterrupt: Ctrl-C was pressed; the runs have saved and ended.
        SignalInterrupt: Another signal arrived; the runs have saved and ended.
    """
    cluster, config = _connect(address), table.config(table.rows[0], 0)
    if gpus is None:
        gpus = 0 if config.accelerator == "cpu" else config.devices
    cpus = cpus or config.devices * (config.workers + 1)
    machines = [node["Resources"] for node in cluster.nodes()]
    if not any(machine.get("GPU", 0) >= gpus and machine.get("CPU", 0) >= cpus for machine in machines):
        shortage = f"no machine of the cluster has {gpus} GPUs and {cpus} CPUs, so the runs wait for one"
        print(f"{shortage}; set other numbers with ray.gpus= and ray.cpus=.", flush=True)
    task = cluster.remote(num_gpus=gpus, num_cpus=cpus)(run_trial)
    with capture_signals() as received:
        try:
            _wait_for(cluster, {task.remote(trial, os.getcwd()): trial for trial in trials}, received)
        finally:
            cluster.shutdown()
    if received:
        reraise(received)


def run_trial(trial: Trial, directory: str) -> Trial:
    """Run a trial on the machine that Ray chose, and return it with its outcome."""
    os.chdir(directory)
    for process in trial.run():
        try:
            while process.poll() is None:
                time.sleep(0.2)  # ray.cancel raises KeyboardInterrupt here; it would not interrupt Popen.wait
        except KeyboardInterrupt:
            process.send_signal(signal.SIGTERM)  # Ray's workers, and so their children, may ignore SIGINT
            process.wait()
            raise
    return trial


def _connect(address: str) -> ModuleType:
    """Return the ray module, connected to a cluster.

    Raises:
        Mistake: Ray is not installed, or no cluster answers.
    """
    try:
        import ray as cluster
    except ImportError:
        raise Mistake("launcher=ray needs ray; install it with: pip install 'lumen[ray]'.") from None
    try:
        cluster.init(address=address, log_to_driver=False)
    except (ConnectionError, ValueError, cluster.exceptions.RayError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise Mistake(
            f"no Ray cluster answers at {address}: {reason}; start one with `ray start --head`, or set "
            "RAY_AUTH_MODE=token if it requires a token."
        ) from None
    return cluster


def _wait_for(cluster: ModuleType, tasks: dict[Any, Trial], received: list[int]) -> None:
    """Show the progress of tasks until all have ended. After a signal, cancel them and let them save."""
    progress, pending = ProgressTable(list(tasks.values())), list(tasks)
    while pending and not received:
        ended, pending = cluster.wait(pending, timeout=1)
        for task in ended:
            _copy_outcome(tasks[task], cluster, task)
        progress.refresh()
    for task in pending:
        cluster.cancel(task)
    if pending:
        cluster.wait(pending, num_returns=len(pending), timeout=GRACE_SECONDS)


def _copy_outcome(trial: Trial, cluster: ModuleType, task: Any) -> None:
    """Copy the outcome of a task to its trial, or the reason why there is none."""
    try:
        result = cluster.get(task)
        trial.state, trial.failures, trial.exit_code = result.state, result.failures, result.exit_code
    except cluster.exceptions.RayError as error:
        trial.state = "failed"
        trial.failures = {trial.commands[trial.run_dir]: str(error).strip().splitlines()[-1]}
