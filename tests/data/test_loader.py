"""Loader: its workers end with the run, its batches need no shared memory, and no batch is waited for without end."""

import os
import signal
import time
from collections.abc import Iterator
from multiprocessing import get_context
from types import SimpleNamespace

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from lumen.config.experiment import load
from lumen.core.errors import Mistake
from lumen.core.interfaces import Batch
from lumen.data import loader as loaders
from lumen.data.loader import Loader, collate_in_worker
from lumen.runs.data import build_data
from lumen.runs.evaluate import interruptible


@pytest.fixture(autouse=True)
def short_wait(monkeypatch):
    """PyTorch waits 5 s for a worker to end before it kills it."""
    monkeypatch.setattr("torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL", 0.5)


class Acting(Dataset):
    """Data set that does something when a batch is read."""

    def __init__(self, act):
        self.act = act

    def __len__(self) -> int:
        return 4

    def __getitems__(self, keys: list[int]) -> Batch:
        self.act()
        extra = {"disparity": [torch.full((4, 4), key) for key in keys]}
        return Batch(torch.zeros(len(keys), 3, 4, 4), [""] * len(keys), [str(key) for key in keys], extra=extra)


def build_loader(act=lambda: None, **options) -> Loader:
    return Loader(Acting(act), batch_size=2, num_workers=1, collate_fn=collate_in_worker, **options)


def test_workers_end_with_a_run_that_is_killed():
    """Also those that are busy, or that wait for a disk: PyTorch's own look at their parent comes between batches."""
    read_end, write_end = os.pipe()

    def busy() -> None:
        os.write(write_end, b"r")
        time.sleep(600)

    run = get_context("fork").Process(target=lambda: list(build_loader(busy)))
    run.start()
    os.close(write_end)
    assert os.read(read_end, 1) == b"r"
    os.set_blocking(read_end, False)
    run.kill()
    run.join()
    for _ in range(200):
        try:
            assert os.read(read_end, 1) == b""
            break
        except BlockingIOError:  # a worker holds the pipe open
            time.sleep(0.05)
    else:
        raise AssertionError("a worker lives")
    os.close(read_end)


@pytest.mark.parametrize(
    ("act", "options", "words"),
    [
        (lambda: time.sleep(60), {"timeout": 1}, "no images arrived"),
        (lambda: os.kill(os.getpid(), signal.SIGKILL), {"timeout": 60}, "was lost .*fewer workers"),
        (lambda: os._exit(3), {"timeout": 60}, "was lost .*fewer workers"),
    ],
    ids=["hangs", "is killed", "ends"],
)
def test_worker_that_is_lost_is_a_mistake(act, options, words):
    with pytest.raises(Mistake, match=words):
        list(build_loader(act, **options))


def test_batch_that_is_late_after_a_suspension_is_asked_for_again(monkeypatch):
    batch = Batch(torch.zeros(1, 3, 4, 4), [""], ["a"])

    class Late(Iterator):
        answers = iter([RuntimeError("DataLoader timed out after 300 seconds"), batch])

        def __next__(self) -> Batch:
            answer = next(self.answers)
            if isinstance(answer, RuntimeError):
                raise answer
            return answer

    monkeypatch.setattr(Loader, "_start", lambda _: Late())
    loader = build_loader()
    loader.converts_images = False
    assert list(loader) == [batch]


def test_error_of_a_data_set_stays_an_error():
    def fail() -> None:
        raise RuntimeError("DataLoader")

    with pytest.raises(RuntimeError, match="Caught RuntimeError"):
        list(build_loader(fail))


def test_worker_that_is_lost_during_a_step_is_a_mistake():
    """PyTorch raises its error wherever the main thread is."""
    with pytest.raises(Mistake, match="was lost"), interruptible():
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. ")
    with pytest.raises(RuntimeError, match="CUDA"), interruptible():
        raise RuntimeError("CUDA error")


def test_workers_that_cannot_be_started_are_a_mistake(monkeypatch):
    def iterate(_) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(DataLoader, "__iter__", iterate)
    with pytest.raises(Mistake, match=r"No space left on device.*--shm-size"):
        list(build_loader())


@pytest.mark.parametrize("blocks", [0, 1, 16, 2**20])
def test_batches_are_equal_however_little_shared_memory_there_is(blocks, monkeypatch):
    disk = SimpleNamespace(f_bavail=blocks, f_blocks=blocks, f_frsize=4096)
    monkeypatch.setattr(loaders, "os", SimpleNamespace(statvfs=lambda path: disk))
    batches = list(build_loader())
    assert [batch.id for batch in batches] == [["0", "1"], ["2", "3"]]
    assert [int(plane[0, 0]) for batch in batches for plane in batch.extra["disparity"]] == [0, 1, 2, 3]
    batch = collate_in_worker(Acting(lambda: None).__getitems__([0, 1]))
    assert isinstance(batch, Batch) == (blocks > 0)


def test_batch_that_finds_shared_memory_full_goes_through_a_pipe(monkeypatch):
    def share_memory(tensor) -> None:
        raise RuntimeError("unable to allocate shared memory(shm) for file </torch_1>: No space left on device (28)")

    monkeypatch.setattr(torch.Tensor, "share_memory_", share_memory)
    assert [batch.id for batch in build_loader()] == [["0", "1"], ["2", "3"]]


def test_every_loader_with_workers_has_a_timeout():
    data = build_data(load("scenes", ["size=32", "workers=1", "steps=1", "validation=2", "data.images=6"]))
    loaders = [data.train_dataloader(), data.val_dataloader(), data.test_dataloader(), data.sample_dataloader(2)]
    assert all(loader.timeout > 0 for loader in [*loaders, data.views_dataloader([(0, 0)], 1)])
