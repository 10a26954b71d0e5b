"""Ray: one task per run on a cluster that is up, which shares the folder that this is typed in."""

import os
import signal
import time
from types import ModuleType
from typing import Any

from lumen.errors import Mistake
from lumen.launchers._live import Live
from lumen.registry import launchers
from lumen.table import Table
from lumen.trial import Trial

GRACE = 120  # seconds for the runs to save in when Ctrl-C ends the sweep


@launchers.register
def ray(
    address: str = "auto",
    gpus: int | None = None,
    cpus: int | None = None,
    *,
    table: Table,
    trials: list[Trial],
) -> None:
    """Waits until all runs have ended.

    Args:
        gpus, cpus: of one run; by default as many as its devices and workers want.

    Raises:
        Mistake: no ray here, or no cluster that answers.
    """
    cluster, config = _joined(address), table.config(table.rows[0], 0)
    if gpus is None:
        gpus = 0 if config.accelerator == "cpu" else config.devices
    task = cluster.remote(num_gpus=gpus, num_cpus=cpus or config.devices * (config.workers + 1))(there)
    refs = {task.remote(trial, os.getcwd()): trial for trial in trials}
    live, waiting = Live(trials), list(refs)
    try:
        while waiting:
            ended, waiting = cluster.wait(waiting, timeout=1)
            for ref in ended:
                _take(refs[ref], cluster, ref)
            live.draw()
    except KeyboardInterrupt:
        for ref in waiting:
            cluster.cancel(ref)
        cluster.wait(waiting, num_returns=len(waiting), timeout=GRACE)
        raise
    finally:
        cluster.shutdown()


def _joined(address: str) -> ModuleType:
    try:
        import ray as cluster
    except ImportError:
        raise Mistake("launcher=ray needs ray; get it with: pip install 'lumen[ray]'.") from None
    try:
        cluster.init(address=address, log_to_driver=False)
    except (ConnectionError, ValueError) as error:
        said = " ".join(str(error).split()).rstrip(".")
        raise Mistake(f"no Ray cluster answers at {address}: {said}; begin one with `ray start --head`.") from None
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
