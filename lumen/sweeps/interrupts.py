"""What a launcher is told while runs are under way: kept for its loop to act on, which has the runs save first."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from lumen.core.signals import Stopped


@contextmanager
def told() -> Iterator[list[int]]:
    """The signals that arrive meanwhile, instead of what each would do to this process."""
    heard: list[int] = []
    deaf = {s for s in (signal.SIGHUP,) if signal.getsignal(s) is signal.SIG_IGN}  # under nohup
    before = {}
    for number in {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1} - deaf:
        before[number] = signal.signal(number, lambda number, _: heard.append(number))
    try:
        yield heard
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def leave(heard: list[int]) -> NoReturn:
    """Ends the launcher as the first signal that it heard would have it.

    Raises:
        KeyboardInterrupt: Ctrl-C.
        Stopped: another signal.
    """
    if heard[0] == signal.SIGINT:
        raise KeyboardInterrupt
    raise Stopped(f"stopped by {signal.Signals(heard[0]).name}; the same command goes on with what is left.")
