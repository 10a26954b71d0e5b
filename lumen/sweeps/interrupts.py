"""Signals that reach a launcher while runs are under way; its loop passes them on, and the runs save first."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from lumen.core.signals import INTERRUPTED, SignalInterrupt


@contextmanager
def capture_signals() -> Iterator[list[int]]:
    """Collect the signals that arrive, instead of letting them end this process."""
    received: list[int] = []
    ignored = {s for s in (signal.SIGHUP,) if signal.getsignal(s) is signal.SIG_IGN}  # as under nohup
    handlers = {}
    for number in {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1} - ignored:
        handlers[number] = signal.signal(number, lambda number, _: received.append(number))
    try:
        yield received
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def reraise(received: list[int]) -> NoReturn:
    """End the launcher as the first signal that it received would.

    Raises:
        KeyboardInterrupt: It was Ctrl-C.
        SignalInterrupt: It was another signal.
    """
    advice = "repeat the command to run what is left."
    if received[0] == signal.SIGINT:
        raise KeyboardInterrupt(f"{INTERRUPTED}; {advice}")
    raise SignalInterrupt(f"stopped by {signal.Signals(received[0]).name}; {advice}")
