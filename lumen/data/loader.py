"""Data loader of batches, and their collation."""

import errno
import os
import pickle
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from multiprocessing.queues import Queue
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves
from torch.utils.data import DataLoader

from lumen.core.errors import BadCheckpoint, Mistake
from lumen.core.interfaces import Batch
from lumen.core.lifetime import current_thread, end_with_parent
from lumen.core.signals import block_signals_in_worker
from lumen.data.sampler import ResumableSampler

SHARED_MEMORY = "/dev/shm"
TIMEOUT_ERROR = "DataLoader timed out"  # beginning of PyTorch's message
WAIT_SECONDS = 600  # for a batch: as long as NCCL waits for a rank by default
ATTEMPTS = 2  # to get a batch: the time in which a scheduler has suspended the whole run counts as waiting


class Loader(DataLoader):
    """Data loader whose workers end with the run, and whose errors are one sentence.

    The `Mistake` of a worker is raised unchanged; PyTorch would wrap it in the text of a traceback.

    Attributes:
        converts_images: Whether images are converted from bytes to numbers in [-1, 1]. Otherwise the trainer converts
            them when it moves a batch to its device.
    """

    converts_images = True

    def __iter__(self) -> Iterator[Batch]:
        batches = self._start()
        while (batch := self._next(batches)) is not None:
            if isinstance(batch, Mistake):
                # The workers end here. Left to the garbage collector, in a cycle with the traceback, they take 10 s.
                self._iterator = batches = None
                raise batch
            yield batch.to("cpu") if self.converts_images else batch

    def _start(self) -> Iterator[Any]:
        """Return the batches as workers make them.

        Raises:
            Mistake: The system has no room for the workers.
        """
        if not self.num_workers:
            return super().__iter__()
        self.worker_init_fn = partial(_init_worker, current_thread())
        try:
            return super().__iter__()
        except OSError as error:
            remedy = f"make room in {SHARED_MEMORY} (docker run --shm-size=1g), or " * (error.errno == errno.ENOSPC)
            raise Mistake(
                f"workers={self.num_workers}: the processes that read images could not be started: {error.strerror}; "
                f"{remedy}set fewer workers, or 0 for none."
            ) from None

    def _next(self, batches: Iterator[Any]) -> Batch | Mistake | None:
        for attempts_left in reversed(range(ATTEMPTS)):
            try:
                batch = next(batches, None)
                return pickle.loads(batch) if isinstance(batch, bytes) else batch
            except RuntimeError as error:
                if attempts_left and str(error).startswith(TIMEOUT_ERROR):
                    continue
                if mistake := explain_lost_worker(error):
                    return mistake
                raise
        return None

    def order_settings(self) -> dict[str, int]:
        """Return everything that the order of images depends on."""
        return self.sampler.order_settings() if isinstance(self.sampler, ResumableSampler) else {}

    def state_dict(self) -> dict[str, Any]:
        """Return everything that the order of images depends on. The trainer counts the position in that order."""
        return self.order_settings()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Verify that a checkpoint has the same order of images.

        Raises:
            BadCheckpoint: The number of images, the batch size, the seed or the number of ranks differs.
        """
        changed = [f"{k} was {state[k]} and is {v}" for k, v in self.order_settings().items() if state.get(k, v) != v]
        if changed:
            raise BadCheckpoint(
                f"the run cannot be resumed in the same order of images: {', '.join(changed)}; restore that setting, "
                "or start a new run."
            )


def collate(samples: list[dict[str, Any]] | Batch | Mistake) -> Batch | Mistake:
    """Return samples of one size as a batch, with images as bytes and one list per kind of `extra`."""
    if isinstance(samples, Batch | Mistake):
        return samples
    masks = [sample["mask"] for sample in samples if sample["mask"] is not None]
    kinds = sorted({kind for sample in samples for kind in sample["extra"]})
    return Batch(
        image=torch.stack([sample["image"] for sample in samples]),
        caption=[sample["caption"] for sample in samples],
        id=[sample["id"] for sample in samples],
        mask=torch.stack(masks).long() if masks else None,
        extra={kind: [sample["extra"].get(kind) for sample in samples] for kind in kinds},
    )


def collate_in_worker(samples: list[dict[str, Any]] | Batch | Mistake) -> Batch | Mistake | bytes:
    """Return samples as a batch in shared memory; where that is short, as bytes, which go through a pipe.

    Half of the shared memory stays free, for semaphores of further workers and for NCCL. PyTorch by itself would fill
    it, drop a batch that does not fit, and wait for that batch without end.
    """
    batch = collate(samples)
    if isinstance(batch, Mistake):
        return batch
    tensors = [leaf for leaf in tree_leaves(vars(batch)) if isinstance(leaf, Tensor)]
    if sum(tensor.untyped_storage().nbytes() for tensor in tensors) <= _free_shared_memory():
        with suppress(RuntimeError):  # other processes have filled it meanwhile
            for tensor in tensors:
                tensor.share_memory_()
            return batch
    return pickle.dumps(batch)


def explain_lost_worker(error: RuntimeError) -> Mistake | None:
    """Return the sentence for PyTorch's error about a worker that was killed or does not answer; None for others."""
    reason = str(error).partition(". ")[0]
    if reason.startswith(TIMEOUT_ERROR):
        return Mistake(
            f"no images arrived within {WAIT_SECONDS} s; see whether their disk answers, then repeat the command."
        )
    if reason.startswith(("DataLoader worker", "Too many open files", "received 0 items of ancdata", "Pin memory")):
        return Mistake(
            f"a process that reads images was lost ({reason}); repeat the command, with fewer workers if memory or "
            "open files ran short."
        )
    return None


def _init_worker(parent: tuple[int, int], _: int) -> None:
    end_with_parent(*parent)
    block_signals_in_worker()
    Queue._on_queue_feeder_error = staticmethod(_end_worker)


def _end_worker(error: Exception, batch: object) -> None:
    """End a worker that cannot send a batch. Python would drop the batch, and the run would wait for it."""
    os.write(2, f"lumen: a batch could not be sent: {error}\n".encode())
    os._exit(1)


def _free_shared_memory() -> float:
    """Return the bytes that batches may take, so that half of the shared memory stays free."""
    try:
        disk = os.statvfs(SHARED_MEMORY)
    except OSError:  # as on macOS, which keeps shared memory elsewhere
        return float("inf")
    return (disk.f_bavail - disk.f_blocks / 2) * disk.f_frsize
