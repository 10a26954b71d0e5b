"""Being told to stop: by SIGTERM, SIGUSR1 or SIGUSR2, or because a time is up."""

import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

STOPPED = 75  # the exit code: EX_TEMPFAIL of sysexits.h, "try again later"
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
ECHO = 1.0  # seconds in which several signals are one: launchers pass on what the scheduler has sent to everyone


class Stopped(BaseException):
    """A run was told to stop, has saved, and ends; no error, so nothing that catches errors may hold it up."""


class Ear:
    """What this process was told.

    While it is `patient` the first signal is only noted, in `heard`, for somebody to act on between two steps. Else,
    and from the second signal on, the process ends at once, with those that it has started.
    """

    def __init__(self):
        self.patient = False
        self.heard: str | None = None
        self.since = 0.0
        self.kill: Callable[[int], None] | None = None  # sends a signal to the ranks that this process has started

    def __call__(self, number: int, frame: FrameType | None) -> None:
        first = self.heard is None
        if first:
            self.heard, self.since = "stop_after" if number == signal.SIGALRM else signal.Signals(number).name, now()
        if not self.patient or not (first or now() - self.since < ECHO):
            self._leave(number)

    def _leave(self, number: int) -> None:
        if self.kill is not None:
            self.kill(signal.SIGKILL)
        if started():
            os.kill(os.getppid(), number)
        else:  # not by print, which may itself have been interrupted
            os.write(2, f"lumen: stopped by {self.heard}; the same command goes on from what was saved.\n".encode())
        os._exit(STOPPED)


@contextmanager
def listening(stop_after: str | None = None) -> Iterator[Ear]:
    """Hears signals instead of ending by them, and one of its own after a time such as 3h50m."""
    ear = Ear()
    if threading.current_thread() is not threading.main_thread():  # Python lets no other handle signals
        yield ear
        return
    numbers = (*SIGNALS, signal.SIGALRM) if stop_after else SIGNALS
    before = {number: signal.signal(number, ear) for number in numbers}
    if stop_after:
        signal.setitimer(signal.ITIMER_REAL, parse_duration(stop_after))
    try:
        yield ear
    finally:
        if stop_after:
            signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)


def started() -> bool:
    """Whether the first rank of this machine has started this one, and would be killed for another end than with 0.

    Lightning's launcher does so; torchrun and SLURM start every rank themselves, and set RANK or no LOCAL_RANK.
    """
    return "RANK" not in os.environ and int(os.environ.get("LOCAL_RANK", 0)) > 0


def deaf(*_: int) -> None:
    """For processes that read images: told to stop with all others, they would leave the run without its images.

    They obey their parent alone, which ends them in this way when it ends itself.
    """
    if hasattr(signal, "sigwaitinfo"):  # not on macOS
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        threading.Thread(target=_obey, daemon=True).start()


def _obey() -> None:
    while signal.sigwaitinfo(SIGNALS).si_pid != os.getppid():
        pass
    os._exit(0)


def parse_duration(text: str) -> int:
    """The length of a time written as 1d, 3h50m or 90s; 0 where it is written otherwise."""
    parts = re.fullmatch(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?", text)
    return sum(int(n or 0) * unit for n, unit in zip(parts.groups(), (86400, 3600, 60, 1), strict=True)) if parts else 0


def now() -> float:
    return time.monotonic()
