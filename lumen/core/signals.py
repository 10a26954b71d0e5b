"""Signals that stop a run: SIGTERM, SIGUSR1 and SIGUSR2, and the end of a time limit."""

import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from lumen.core.console import console

SIGNAL_EXIT_CODE = 75  # EX_TEMPFAIL of sysexits.h: temporary failure, try again later
INTERRUPT_EXIT_CODE = 130  # 128 and SIGINT, as shells have it
INTERRUPTED = "interrupted"
INTERRUPT_SECONDS = 5.0  # for Python to notice Ctrl-C
REPEAT_SECONDS = 0.05  # until a lost Ctrl-C is sent again, when Python has left the destructor
STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
ECHO_SECONDS = 1.0  # signals within this time count as one: launchers forward what the scheduler sends to all processes


class SignalInterrupt(BaseException):
    """End of a run that a signal stopped and that has saved a checkpoint.

    It is no `Exception`, so that code which handles errors does not delay it.
    """


class SignalHandler:
    """Handler of the stop signals of this process.

    While `deferring`, the first signal is only recorded in `received`, so that training can act on it between two
    steps. Otherwise, and from the second signal on, the process and its children end at once.

    Attributes:
        deferring: Whether the first signal is recorded instead of ending the process.
        received: Name of the first signal, or "stop_after" at the end of the time limit.
        received_at: Monotonic time of the first signal in seconds.
        kill_children: Function that sends a signal to the ranks that this process started.
        saved: Function that names what was saved so far, such as "the last checkpoint"; "" for nothing.
    """

    def __init__(self):
        self.deferring = False
        self.received: str | None = None
        self.received_at = 0.0
        self.kill_children: Callable[[int], None] | None = None
        self.saved: Callable[[], str] = lambda: ""

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Record a signal, or end the process."""
        is_first = self.received is None
        if is_first:
            self.received = "stop_after" if number == signal.SIGALRM else signal.Signals(number).name
            self.received_at = time.monotonic()
        is_echo = time.monotonic() - self.received_at < ECHO_SECONDS
        if not self.deferring or not (is_first or is_echo):
            self._exit(number)

    def explain(self, end: str) -> str:
        """Return the sentence about an end: what the same command would do."""
        if saved := self.saved():
            return f"{end}; repeat the command to resume from {saved}."
        return f"{end} before anything was saved; the same command starts anew."

    def _exit(self, number: int) -> None:
        if self.kill_children is not None:
            self.kill_children(signal.SIGKILL)
        if is_child_rank():
            os.kill(os.getppid(), number)
        else:  # not by print, which the signal may have interrupted
            # On a line of its own, also after a progress bar.
            console.write_at_exit(f"\nlumen: {self.explain(f'stopped by {self.received}')}\n")
        os._exit(SIGNAL_EXIT_CODE)


@contextmanager
def handle_signals(stop_after: str | None = None) -> Iterator[SignalHandler]:
    """Handle stop signals within the context.

    Args:
        stop_after: Time limit such as 3h50m, whose end counts as a signal.

    Raises:
        KeyboardInterrupt: Ctrl-C was pressed; its message says what the same command would do.
    """
    handler = SignalHandler()
    if threading.current_thread() is not threading.main_thread():  # Python handles signals in the main thread only
        yield handler
        return
    numbers = (*STOP_SIGNALS, signal.SIGALRM) if stop_after else STOP_SIGNALS
    previous = {number: signal.signal(number, handler) for number in numbers}
    if stop_after:
        signal.setitimer(signal.ITIMER_REAL, parse_duration(stop_after))
    try:
        with _end_at_ctrl_c(handler), _repeat_lost_ctrl_c():
            yield handler
    except KeyboardInterrupt:
        raise KeyboardInterrupt(handler.explain(INTERRUPTED)) from None
    finally:
        if stop_after:
            signal.setitimer(signal.ITIMER_REAL, 0)
        for number, function in previous.items():
            signal.signal(number, function or signal.SIG_DFL)


@contextmanager
def _end_at_ctrl_c(handler: SignalHandler) -> Iterator[None]:
    """End this process some seconds after Ctrl-C if its main thread is in a library, waiting for another rank.

    Python raises KeyboardInterrupt once the library returns, which may take as long as the library's own timeout. The
    other ranks of this machine end with the first one.
    """
    if is_child_rank() or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    raised = threading.Event()
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)

    def interrupt(number: int, frame: FrameType | None) -> None:
        raised.set()
        signal.default_int_handler(number, frame)

    def watch() -> None:
        while number := os.read(read_end, 1):
            if number[0] == signal.SIGINT and not raised.wait(INTERRUPT_SECONDS):
                if handler.kill_children is not None:
                    handler.kill_children(signal.SIGKILL)
                console.write_at_exit(f"\nlumen: {handler.explain(INTERRUPTED)}\n")
                os._exit(INTERRUPT_EXIT_CODE)
        os.close(read_end)

    threading.Thread(target=watch, daemon=True).start()
    previous = signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)  # written to at once, wherever Python is
    signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.set_wakeup_fd(previous)
        if signal.getsignal(signal.SIGINT) is interrupt:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        os.close(write_end)


@contextmanager
def _repeat_lost_ctrl_c() -> Iterator[None]:
    """Send Ctrl-C again where Python ignores its KeyboardInterrupt: in a destructor, or in a callback of a weakref."""
    previous, process_thread = sys.unraisablehook, threading.main_thread().ident

    def report(unraisable: "sys.UnraisableHookArgs") -> None:
        if not issubclass(unraisable.exc_type, KeyboardInterrupt):
            previous(unraisable)
            return
        # Later, and from another thread: here the exception would be ignored again.
        timer = threading.Timer(REPEAT_SECONDS, signal.pthread_kill, [process_thread, signal.SIGINT])
        timer.daemon = True
        timer.start()

    sys.unraisablehook = report
    try:
        yield
    finally:
        sys.unraisablehook = previous


def is_child_rank() -> bool:
    """Return whether the first rank of this machine started this process and waits for its exit code.

    Lightning's launcher starts ranks in this way. torchrun and SLURM start all ranks themselves, and set RANK or no
    LOCAL_RANK.
    """
    return "RANK" not in os.environ and int(os.environ.get("LOCAL_RANK", 0)) > 0


def block_signals_in_worker(*_: int) -> None:
    """Make a data loader's worker ignore stop signals, unless they come from its parent.

    A scheduler signals all processes. A worker that ended would leave the run without images before its checkpoint.
    """
    signal.set_wakeup_fd(-1)  # it is the parent's
    if hasattr(signal, "sigwaitinfo"):  # not on macOS
        signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        threading.Thread(target=_exit_on_signal_of_parent, daemon=True).start()


def _exit_on_signal_of_parent() -> None:
    while signal.sigwaitinfo(STOP_SIGNALS).si_pid != os.getppid():
        pass
    os._exit(0)


def parse_duration(text: str) -> int:
    """Return the seconds of a duration such as 1d, 3h50m or 90s; 0 if the text is none."""
    match = re.fullmatch(r"(?:(\d{1,9})d)?(?:(\d{1,9})h)?(?:(\d{1,9})m)?(?:(\d{1,9})s)?", text)
    if match is None:
        return 0
    return sum(int(count or 0) * unit for count, unit in zip(match.groups(), (86400, 3600, 60, 1), strict=True))
