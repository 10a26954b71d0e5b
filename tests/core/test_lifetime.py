"""Lifetime of processes: they end with the one that started them, however it ends, and not before."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

# A parent that starts a child in one of several ways. Both hold the pipe, which is at its end once both have ended.
PARENT = """
import os, signal, subprocess, sys, threading, time
from lumen.core import lifetime

way, thread, moment = sys.argv[1:]
CHILD = "import os, time; import lumen; os.write(1, b'ready'); time.sleep(600)"

def fork():
    parent = lifetime.current_thread()
    if os.fork() == 0:
        lifetime.end_with_parent(*parent)
        os.write(1, b"ready")
        time.sleep(600)

def program():
    death_signal = lifetime.signal_at_end_of_parent(signal.SIGTERM)
    subprocess.Popen(["sh", "-c", "printf ready; exec sleep 600"], preexec_fn=death_signal)

def rank():
    lifetime.announce_parent_to_ranks()
    subprocess.Popen([sys.executable, "-c", CHILD], env=os.environ | {"LOCAL_RANK": "1"})

def torchrun():
    subprocess.Popen([sys.executable, "-c", CHILD], env=os.environ | {"RANK": "1", "TORCHELASTIC_RUN_ID": "lumen"})

def start():
    globals()[way]()
    if moment == "at once":
        os.kill(os.getpid(), signal.SIGKILL)
    if thread == "main" or moment != "after the thread":
        time.sleep(600)

if thread == "main":
    start()
threading.Thread(target=start).start()
time.sleep(600)
"""


def start_parent(*words: str) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", PARENT, *words], stdout=subprocess.PIPE)


@pytest.mark.parametrize("thread", ["main", "another"])
@pytest.mark.parametrize("way", ["fork", "program", "rank", "torchrun"])
def test_process_ends_with_a_parent_that_is_killed(way, thread):
    parent = start_parent(way, thread, "later")
    assert parent.stdout.read(5) == b"ready"
    parent.kill()
    assert parent.communicate(timeout=60)[0] == b""  # until both have ended


@pytest.mark.parametrize("thread", ["main", "another"])
@pytest.mark.parametrize("way", ["fork", "program", "rank"])
def test_process_ends_with_a_parent_that_is_killed_as_it_starts(way, thread):
    """Linux takes a request for a signal at the parent's end even if there is no parent any more."""
    assert start_parent(way, thread, "at once").communicate(timeout=60)[0] in (b"", b"ready")


@pytest.mark.parametrize("way", ["fork", "rank"])
def test_process_outlives_the_thread_that_started_it(way):
    """Linux would end it with that thread."""
    parent = start_parent(way, "another", "after the thread")
    assert parent.stdout.read(5) == b"ready"
    time.sleep(0.3)
    assert Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text()
    parent.kill()
    parent.communicate(timeout=60)
