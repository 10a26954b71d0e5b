"""This machine: one run per GPU at a time, one run at a time on a CPU; slots= sets another number."""

import os
import signal
import time
from collections.abc import Generator, Iterator
from subprocess import Popen
from typing import Annotated

from lumen.config.schema import Config
from lumen.core.ranges import Range
from lumen.core.registry import launchers
from lumen.sweeps.interrupts import capture_signals, reraise
from lumen.sweeps.progress import ProgressTable
from lumen.sweeps.table import Table
from lumen.sweeps.trial import Trial


@launchers.register
def local(slots: Annotated[int, Range(1, 10_000)] | None = None, *, table: Table, trials: list[Trial]) -> None:
    """Run trials as slots become free, and show their progress until all have ended.

    Args:
        slots: Runs at a time.

    Raises:
        KeyboardInterrupt: Ctrl-C was pressed; the runs have saved and ended.
        SignalInterrupt: Another signal arrived; the runs have saved and ended.
    """
    queue, progress = _queue_trials(trials), ProgressTable(trials)

    def run_slot(environment: dict[str, str]) -> Generator[Popen, None, None]:
        for trial in queue:
            yield from trial.run(**environment)

    slot_runs = [run_slot(environment) for environment in _slot_environments(slots, table.config(table.rows[0], 0))]
    with capture_signals() as received:
        processes: dict[Generator[Popen, None, None], Popen | None] = {}
        try:
            while not received:
                for slot in slot_runs:
                    if slot not in processes or processes[slot].poll() is not None:
                        processes[slot] = next(slot, None)
                slot_runs = [slot for slot in slot_runs if processes[slot] is not None]
                progress.refresh()
                if not slot_runs:
                    return
                time.sleep(0.2)
        finally:  # also if the output cannot be printed, as into a closed pipe
            _stop([process for process in processes.values() if process is not None], received)
            for slot in slot_runs:
                slot.close()
    progress.refresh()
    reraise(received)


def _slot_environments(count: int | None, config: Config) -> list[dict[str, str]]:
    """Return the environment variables of each slot: its share of the GPUs, or of the CPU cores."""
    gpus = _visible_gpus() if config.accelerator != "cpu" else []
    shares = [gpus[i : i + config.devices] for i in range(0, len(gpus) - config.devices + 1, config.devices)]
    count = count or len(shares) or 1
    if shares:
        return [{"CUDA_VISIBLE_DEVICES": ",".join(shares[i % len(shares)])} for i in range(count)]
    if count == 1 or "OMP_NUM_THREADS" in os.environ:
        return [{}] * count
    # Processes that each use all cores would mostly wait for one another.
    return [{"OMP_NUM_THREADS": str(max(1, len(os.sched_getaffinity(0)) // count))}] * count


def _queue_trials(trials: list[Trial]) -> Iterator[Trial]:
    """Yield every trial, then again those that another process was running: it may have finished or died."""
    yield from trials
    yield from [trial for trial in trials if trial.state == "busy"]


def _visible_gpus() -> list[str]:
    """Return the GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    import torch  # not at the top, so that listing launchers stays fast

    count = torch.cuda.device_count()
    names = os.environ.get("CUDA_VISIBLE_DEVICES")
    return (names.split(",") if names else [str(i) for i in range(count)])[:count]


def _stop(processes: list[Popen], received: list[int]) -> None:
    """Pass signals on to the runs until these have saved and ended."""
    num_sent = 0
    while any(process.poll() is None for process in processes):
        for number in (received or [signal.SIGTERM])[num_sent:]:
            num_sent += 1
            for process in processes:
                process.send_signal(signal.SIGTERM if number == signal.SIGHUP else number)
        time.sleep(0.1)
