"""Signals: deferred to the next step, or the end of the process with an exit code of its own."""

import os
import signal
import subprocess
import sys
import time
import weakref

import pytest

from lumen.core.signals import SIGNAL_EXIT_CODE, STOP_SIGNALS, handle_signals, parse_duration

WAIT = """
import sys, time
from lumen.core.signals import handle_signals
with handle_signals() as handler:
    handler.deferring = sys.argv[1] == "deferring"
    print("ready", flush=True)
    while True:
        time.sleep(0.02)
        if handler.received and sys.argv[2] == "leaves":
            sys.exit(0)
"""


def start_waiting(*arguments: str) -> subprocess.Popen:
    """Start a process that handles signals until it ends."""
    command = [sys.executable, "-c", WAIT, *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout.readline() == b"ready\n"
    return process


WAIT_IN_A_LIBRARY = """
import ctypes, sys, threading, time
from lumen.core import signals
signals.INTERRUPT_SECONDS = float(sys.argv[2])
with signals.handle_signals() as handler:
    handler.kill_children = lambda number: print("killed", number, flush=True)
    mutex, lock = ctypes.create_string_buffer(64), ctypes.CDLL(None).pthread_mutex_lock
    lock(mutex)
    try:
        threading.Timer(0.5, print, ["ready"], {"flush": True}).start()
        lock(mutex) if sys.argv[1] == "library" else time.sleep(60)
    except KeyboardInterrupt:
        time.sleep(0.5)
        sys.exit(3)
"""


@pytest.mark.parametrize(("place", "code", "output"), [("library", 130, b"killed 9\n"), ("python", 3, b"")])
def test_signal_of_ctrl_c_ends_a_process_that_waits_in_a_library(place, code, output):
    """Python's own code has all the time that it needs to end."""
    command = [sys.executable, "-c", WAIT_IN_A_LIBRARY, place, "0.2"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(signal.SIGINT)
    out, error = process.communicate(timeout=60)
    assert (process.returncode, out) == (code, output)
    assert (b"interrupted" in error) == (place == "library")


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_signal_ends_a_process_that_does_not_defer(number):
    process = start_waiting("immediate", "stays")
    process.send_signal(number)
    assert process.wait(10) == SIGNAL_EXIT_CODE
    words = f"lumen: stopped by {number.name} before anything was saved; the same command starts anew."
    assert process.stderr.read().decode() == f"\n{words}\n"


def test_signal_is_deferred_with_its_echo_and_the_next_one_ends_the_process():
    process = start_waiting("deferring", "leaves")
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 0
    process = start_waiting("deferring", "stays")
    for pause in (0.1, 1.2, None):  # the first signal, what a launcher forwards of it, and a second one
        process.send_signal(signal.SIGTERM)
        if pause:
            time.sleep(pause)
            assert process.poll() is None
    assert process.wait(10) == SIGNAL_EXIT_CODE


def test_signal_at_the_end_of_a_time_limit():
    before = signal.getsignal(signal.SIGTERM)
    with handle_signals("1s") as handler:
        handler.deferring = True
        signal.pause()
    assert handler.received == "stop_after" and signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize(("saved", "words"), [("", "starts anew"), ("the last checkpoint", "from the last checkpoint")])
def test_signal_of_ctrl_c_says_what_was_saved(saved, words):
    with pytest.raises(KeyboardInterrupt, match=f"interrupted.* {words}"), handle_signals() as handler:
        handler.saved = lambda: saved
        raise KeyboardInterrupt


class Destructor:
    """Object in whose destructor Ctrl-C arrives."""

    def __del__(self):
        signal.raise_signal(signal.SIGINT)


class Referent:
    """Object at whose end the callback of a weakref is called."""


def test_signal_of_ctrl_c_in_a_destructor_is_not_lost():
    hook = sys.unraisablehook
    with pytest.raises(KeyboardInterrupt, match="interrupted"), handle_signals():
        Destructor()
        time.sleep(30)
    with pytest.raises(KeyboardInterrupt, match="interrupted"), handle_signals():
        referent = Referent()
        reference = weakref.ref(referent, lambda _: signal.raise_signal(signal.SIGINT))
        del referent
        assert reference() is None
        time.sleep(30)
    assert sys.unraisablehook is hook


def test_signal_handler_passes_other_lost_errors_on(monkeypatch):
    class Failure:
        def __del__(self):
            raise ValueError

    lost = []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: lost.append(unraisable.exc_type))
    with handle_signals():
        Failure()
    assert lost == [ValueError]


def test_signal_of_a_child_rank_is_sent_to_its_parent(monkeypatch):
    """Lightning's launcher kills the first rank if a child fails, so the first rank must stop by itself."""
    calls = []
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setattr(os, "kill", lambda *arguments: calls.append(arguments))
    monkeypatch.setattr(os, "_exit", calls.append)
    with handle_signals() as handler:
        handler(signal.SIGUSR1, None)
    assert calls == [(os.getppid(), signal.SIGUSR1), SIGNAL_EXIT_CODE]


def test_signal_time_limit_is_parsed_with_units():
    texts = ["3h50m", "1d", "90s", "1d2h3m4s", "", "50", "1.5h", "3h 50m"]
    assert [parse_duration(text) for text in texts] == [13800, 86400, 90, 93784, 0, 0, 0, 0]
