"""Told to stop: a signal is kept for the next step or ends the process, which says so by its exit code."""

import os
import signal
import subprocess
import sys
import time

import pytest

from lumen.core.signals import SIGNALS, STOPPED, listening, parse_duration

WAITS = """
import sys, time
from lumen.core.signals import listening
with listening() as ear:
    ear.patient = sys.argv[1] == "patient"
    print("ready", flush=True)
    while True:
        time.sleep(0.02)
        if ear.heard and sys.argv[2] == "leaves":
            sys.exit(0)
"""


def waiting(*how: str) -> subprocess.Popen:
    child = subprocess.Popen([sys.executable, "-c", WAITS, *how], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert child.stdout.readline() == b"ready\n"
    return child


@pytest.mark.parametrize("number", SIGNALS)
def test_where_nothing_can_be_lost_a_signal_ends_the_process(number):
    child = waiting("impatient", "stays")
    child.send_signal(number)
    assert child.wait(10) == STOPPED
    assert f"stopped by {number.name}" in child.stderr.read().decode()


def test_the_first_signal_is_kept_its_echo_too_and_the_next_ends_the_process():
    child = waiting("patient", "leaves")
    child.send_signal(signal.SIGTERM)
    assert child.wait(10) == 0
    child = waiting("patient", "stays")
    for pause in (0.1, 1.2, None):  # the first, what a launcher passes on of it, and a second one
        child.send_signal(signal.SIGTERM)
        if pause:
            time.sleep(pause)
            assert child.poll() is None
    assert child.wait(10) == STOPPED


def test_a_time_that_is_up_is_heard():
    before = signal.getsignal(signal.SIGTERM)
    with listening("1s") as ear:
        ear.patient = True
        signal.pause()
    assert ear.heard == "stop_after" and signal.getsignal(signal.SIGTERM) is before


def test_a_rank_that_another_has_started_hands_its_signal_on(monkeypatch):
    """Lightning ends the first rank by SIGKILL where one that it has started fails; so the first must be told."""
    told = []
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setattr(os, "kill", lambda *words: told.append(words))
    monkeypatch.setattr(os, "_exit", told.append)
    with listening() as ear:
        ear(signal.SIGUSR1, None)
    assert told == [(os.getppid(), signal.SIGUSR1), STOPPED]


def test_times_are_written_with_units():
    texts = ["3h50m", "1d", "90s", "1d2h3m4s", "", "50", "1.5h", "3h 50m"]
    assert [parse_duration(text) for text in texts] == [13800, 86400, 90, 93784, 0, 0, 0, 0]
