"""Map of a function over many items, on all cores and in order."""

import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from lumen.core.errors import Mistake
from lumen.core.lifetime import current_thread, end_with_parent

CHUNK_SIZE = 32  # items that a process is sent at a time

_function: Callable[[Any], Any]  # of a process that maps
_items: Sequence[Any]


def map_in_order(function: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[Any]:
    """Yield the results of a function for each item, in the order of the items.

    On Linux forks compute them. They inherit function and items, end with this process, and leave Ctrl-C to it.
    Threads would mostly wait for one another, because small files take longer in Python than in C.

    Raises:
        Mistake: A fork was killed.
    """
    chunks = [range(start, min(start + CHUNK_SIZE, len(items))) for start in range(0, len(items), CHUNK_SIZE)]
    num_processes = min(len(os.sched_getaffinity(0)) if sys.platform == "linux" else 1, len(chunks))
    if num_processes > 1:
        yield from _map_in_forks(function, items, chunks, num_processes)
    else:
        yield from map(function, items)


def _map_in_forks(
    function: Callable[[Any], Any], items: Sequence[Any], chunks: list[range], num_processes: int
) -> Iterator[Any]:
    # Not at the top: they take longer to import than most commands take.
    from concurrent.futures.process import BrokenProcessPool, ProcessPoolExecutor
    from multiprocessing import active_children, get_context

    others, arguments = set(active_children()), (function, items, current_thread())
    pool = ProcessPoolExecutor(num_processes, get_context("fork"), _begin, arguments)
    try:
        futures = deque(pool.submit(_map_chunk, chunk) for chunk in chunks)
        while futures:
            yield from futures.popleft().result()
        pool.shutdown()
    except BaseException as error:  # Ctrl-C too: it does not wait for files that a disk takes long to send
        pool.shutdown(wait=False)
        for process in set(active_children()) - others:
            process.kill()
        if isinstance(error, BrokenProcessPool):
            raise Mistake("a process that reads files was killed; repeat the command with more free memory.") from None
        raise


def _begin(function: Callable[[Any], Any], items: Sequence[Any], parent: tuple[int, int]) -> None:
    """Prepare a fork."""
    global _function, _items
    _function, _items = function, items
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent(*parent)


def _map_chunk(chunk: range) -> list[Any]:
    return [_function(_items[i]) for i in chunk]
