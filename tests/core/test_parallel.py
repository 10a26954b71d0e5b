"""Map on all cores: the order of the items, errors, and the end of the processes."""

import os
import signal
import time
from multiprocessing import active_children

import pytest

from lumen.core import parallel
from lumen.core.errors import Mistake
from lumen.core.parallel import map_in_order


@pytest.fixture(params=[1, 3])
def num_processes(request, monkeypatch) -> int:
    """Cores that this process may use; each gets chunks of two items."""
    monkeypatch.setattr(parallel, "CHUNK_SIZE", 2)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(request.param)), raising=False)
    return request.param


def children_left() -> list:
    """Return the processes that are still there after ten seconds.

    A process that was killed takes a moment to end, and the thread of its pool may be the one that learns of it.
    """
    end = time.monotonic() + 10
    while (children := active_children()) and time.monotonic() < end:
        time.sleep(0.01)
    return children


def slow_square(number: int) -> tuple[int, int]:
    """Return a square and the process that computed it; early items take longest."""
    time.sleep(0.002 * (number < 3))
    return number**2, os.getpid()


def fail_at_seven(number: int) -> int:
    if number == 7:
        raise ValueError("seven")
    return number


def test_parallel_map_has_the_order_of_the_items(num_processes):
    squares, processes = zip(*map_in_order(slow_square, range(30)), strict=True)
    assert squares == tuple(number**2 for number in range(30))
    assert (os.getpid() in processes) == (num_processes == 1)
    assert list(map_in_order(slow_square, [])) == []


def test_parallel_map_passes_an_error_on(num_processes):
    with pytest.raises(ValueError, match="seven"):
        list(map_in_order(fail_at_seven, range(30)))
    assert not children_left()


@pytest.mark.parametrize("num_processes", [3], indirect=True)
def test_parallel_map_that_is_interrupted_ends_its_processes_at_once(num_processes):
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        for _ in map_in_order(lambda number: time.sleep(60 * (number > 3)), range(30)):
            raise KeyboardInterrupt
    assert not children_left() and time.monotonic() - start < 30


@pytest.mark.parametrize("num_processes", [3], indirect=True)
def test_parallel_map_names_the_loss_of_a_process(num_processes):
    with pytest.raises(Mistake, match="killed"):
        list(map_in_order(lambda number: os.kill(os.getpid(), signal.SIGKILL), range(30)))
