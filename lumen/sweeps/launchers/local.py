"""This machine: one run per GPU at a time, on a CPU one after another; slots= for another number."""

import os
import signal
import time
from collections.abc import Iterator
from subprocess import Popen

from lumen.config.schema import Config
from lumen.core.registry import launchers
from lumen.sweeps.interrupts import leave, told
from lumen.sweeps.progress import Live
from lumen.sweeps.table import Table
from lumen.sweeps.trial import Trial


@launchers.register
def local(slots: int | None = None, *, table: Table, trials: list[Trial]) -> None:
    """Starts runs as slots come free, and shows how they stand until all have ended.

    Raises:
        KeyboardInterrupt: Ctrl-C; the runs have saved and ended.
        Stopped: told to end by another signal; the same.
    """
    line, live = _in_line(trials), Live(trials)

    def work(environment: dict[str, str]) -> Iterator[Popen]:
        for trial in line:
            yield from trial.processes(**environment)

    workers = [work(environment) for environment in _slots(slots, table.config(table.rows[0], 0))]
    with told() as heard:
        children: dict[Iterator[Popen], Popen | None] = {}
        try:
            while not heard:
                for worker in workers:
                    if worker not in children or children[worker].poll() is not None:
                        children[worker] = next(worker, None)
                workers = [worker for worker in workers if children[worker] is not None]
                live.draw()
                if not workers:
                    return
                time.sleep(0.2)
        finally:  # also where drawing failed, as into a pipe that was closed
            _end([child for child in children.values() if child is not None], heard)
            for worker in workers:
                worker.close()
    live.draw()
    leave(heard)


def _slots(count: int | None, config: Config) -> list[dict[str, str]]:
    """The environment of each slot: its share of the GPUs, or of the cores."""
    gpus, each = _gpus() if config.accelerator != "cpu" else [], config.devices
    shares = [gpus[i : i + each] for i in range(0, len(gpus) - each + 1, each)]
    count = count or len(shares) or 1
    if shares:
        return [{"CUDA_VISIBLE_DEVICES": ",".join(shares[i % len(shares)])} for i in range(count)]
    if count == 1 or "OMP_NUM_THREADS" in os.environ:
        return [{}] * count
    # Processes that each take all cores would spend their time on waiting for one another.
    return [{"OMP_NUM_THREADS": str(max(1, len(os.sched_getaffinity(0)) // count))}] * count


def _in_line(trials: list[Trial]) -> Iterator[Trial]:
    """Every trial, then once more those that another process was at, for it may have ended or died."""
    yield from trials
    yield from [trial for trial in trials if trial.state == "busy"]


def _gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    import torch  # here, so that a launcher can be named without it

    count = torch.cuda.device_count()
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return (named.split(",") if named else [str(i) for i in range(count)])[:count]


def _end(children: list[Popen], heard: list[int]) -> None:
    """Hands signals on to the runs until these have saved and ended."""
    handed = 0
    while any(child.poll() is None for child in children):
        for number in (heard or [signal.SIGTERM])[handed:]:
            handed += 1
            for child in children:
                child.send_signal(signal.SIGTERM if number == signal.SIGHUP else number)
        time.sleep(0.1)
