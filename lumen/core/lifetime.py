"""Lifetime of the processes that a run starts: they end with it, also if it is killed."""

import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from functools import partial

from lumen.core.signals import SIGNAL_EXIT_CODE, is_child_rank

RANKS_PARENT = "LUMEN_PARENT"  # environment variable of ranks: the process and the thread that starts them
WATCH_SECONDS = 1.0
GRACE_SECONDS = 30  # for a run to end after Ctrl-C
PR_SET_PDEATHSIG = 1  # of prctl(2)
LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


def current_thread() -> tuple[int, int]:
    """Return the process and the thread that call, for `end_with_parent` in the processes that they start."""
    return os.getpid(), threading.get_native_id()


def end_with_parent(process: int, thread: int) -> None:
    """End this process at once when the process that has started it ends.

    Linux itself kills it, even if it is busy. But Linux does so when the *thread* that has started it ends. So if that
    was not the main thread, whose number is that of the process, a thread of this process watches the parent.
    """
    if LIBC is not None and thread == process:
        _request_signal(process, signal.SIGKILL)
    else:
        threading.Thread(target=_watch, args=[process], daemon=True).start()


def signal_at_end_of_parent(number: int) -> Callable[[], None] | None:
    """Return the `preexec_fn` of a process that gets a signal when the calling thread ends; None if Linux is not there.

    Unlike what `end_with_parent` does, it holds for programs that know nothing of it, from their first moment on.
    """
    return partial(_request_signal, os.getpid(), number) if LIBC is not None else None


def announce_parent_to_ranks() -> None:
    """Tell the ranks that this thread will start whom they end with."""
    os.environ[RANKS_PARENT] = ",".join(map(str, current_thread()))


def end_rank_with_parent() -> None:
    """End this process, if it is a rank, at once when the process that has started it ends.

    It is called before anything heavy is imported: to import takes seconds, in which the run may be killed.
    """
    parent = os.environ.pop(RANKS_PARENT, None)  # which is not the parent of what this process starts
    if parent and is_child_rank():
        end_with_parent(*map(int, parent.split(",")))
    elif "TORCHELASTIC_RUN_ID" in os.environ:  # of torchrun
        end_with_parent(os.getppid(), 0)


def wait_for_end_of_parent() -> None:
    """Leave it to the first rank of this machine to end after Ctrl-C, which all ranks receive.

    It would take the end of another rank for a failure, and be killed for it.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    time.sleep(GRACE_SECONDS)


def _request_signal(process: int, number: int) -> None:
    LIBC.prctl(PR_SET_PDEATHSIG, number)
    if os.getppid() != process:  # it ended before the call
        os._exit(SIGNAL_EXIT_CODE)


def _watch(process: int) -> None:
    while os.getppid() == process:
        time.sleep(WATCH_SECONDS)
    os._exit(SIGNAL_EXIT_CODE)
