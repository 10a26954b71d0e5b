"""Ray: one task per run on a cluster that is up, which shares the folder that this is typed in."""

import os
import signal
import time
from types import ModuleType
from typing import Any

from lumen.core.errors import Mistake
from lumen.core.registry import launchers
from lumen.sweeps.interrupts import leave, told
from lumen.sweeps.progress import Live
from lumen.sweeps.table import Table
from lumen.sweeps.trial import Trial

GRACE = 120  # seconds for the runs to save in when a signal ends the sweep


@launchers.register
def ray(
    address: str = "auto",
    gpus: int | None = None,
    cpus: int | None = None,
    *,
    table: Table,
    trials: list[Trial],
) -> None:
    """Waits until all runs have ended; one whose machine is lost is begun again by Ray, elsewhere.

    Args:
        gpus, cpus: of one run; by default as many as its devices and workers want.

    Raises:
        Mistake: no ray here, or no cluster that answers.
        KeyboardInterrupt: Ctrl-C; the runs have saved and ended.
        Stopped: told to end by another signal; the same.
    """
    cluster, config = _joined(address), table.config(table.rows[0], 0)
    if gpus is None:
        gpus = 0 if config.accelerator == "cpu" else config.devices
    cpus = cpus or config.devices * (config.workers + 1)
    machines = [node["Resources"] for node in cluster.nodes()]
    if not any(has.get("GPU", 0) >= gpus and has.get("CPU", 0) >= cpus for has in machines):
        said = f"no machine of the cluster has {gpus} GPUs and {cpus} CPUs, so runs wait for one"
        print(f"{said}; ray.gpus= and ray.cpus= ask for others.", flush=True)
    task = cluster.remote(num_gpus=gpus, num_cpus=cpus)(there)
    with told() as heard:
        try:
            _follow(cluster, {task.remote(trial, os.getcwd()): trial for trial in trials}, heard)
        finally:
            cluster.shutdown()
    if heard:
        leave(heard)


def _follow(cluster: ModuleType, refs: dict[Any, Trial], heard: list[int]) -> None:
    """Shows how tasks stand until all have ended, or cancels them and lets them save."""
    live, waiting = Live(list(refs.values())), list(refs)
    while waiting and not heard:
        ended, waiting = cluster.wait(waiting, timeout=1)
        for ref in ended:
            _take(refs[ref], cluster, ref)
        live.draw()
    for ref in waiting:
        cluster.cancel(ref)
    if waiting:
        cluster.wait(waiting, num_returns=len(waiting), timeout=GRACE)


def _joined(address: str) -> ModuleType:
    try:
        import ray as cluster
    except ImportError:
        raise Mistake("launcher=ray needs ray; get it with: pip install 'lumen[ray]'.") from None
    try:
        cluster.init(address=address, log_to_driver=False)
    except (ConnectionError, ValueError, cluster.exceptions.RayError) as error:
        said = " ".join(str(error).split()).rstrip(".")
        raise Mistake(
            f"no Ray cluster answers at {address}: {said}; begin one with `ray start --head`, or if it wants a token, "
            "set RAY_AUTH_MODE=token."
        ) from None
    return cluster


def there(trial: Trial, place: str) -> Trial:
    """Runs a trial on the machine that Ray chose."""
    os.chdir(place)
    for child in trial.processes():
        try:
            while child.poll() is None:
                time.sleep(0.2)  # ray.cancel raises KeyboardInterrupt here; it would not wake a wait for the process
        except KeyboardInterrupt:
            child.send_signal(signal.SIGTERM)  # Ray's processes, and so theirs, may have SIGINT switched off
            child.wait()
            raise
    return trial


def _take(trial: Trial, cluster: ModuleType, ref: Any) -> None:
    """What came of a trial elsewhere, or why nothing came back."""
    try:
        came = cluster.get(ref)
        trial.state, trial.failures, trial.code = came.state, came.failures, came.code
    except cluster.exceptions.RayError as error:
        trial.state = "failed"
        trial.failures = {trial.commands[trial.home]: str(error).strip().splitlines()[-1]}
