"""Short trainings whose ranks are forks: killed, they die as any process, without the seconds that importing takes."""

import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from multiprocessing import get_context
from multiprocessing.context import ForkProcess
from pathlib import Path

import pytest
import torch  # noqa: F401  once, for all that are forked
from lightning.pytorch import Callback, Trainer

from lumen.__main__ import main
from lumen.runs import train as run
from lumen.runs.state_hashes import Witness, _seen, evidence

SHORT = ["size=32", "backbone=dino", "backbone.size=tiny", "backbone.patch=8", "backbone.weights=none"]
SHORT += ["diffusion.weights=none", "diffusion.size=tiny", "batch=2", "conditioning.vectors=60", "validation=2"]
SHORT += ["warmup=3", "lr=1e-3", "accelerator=cpu", "ema=0.5", "prompt_dropout=0.5", "data.images=6", "workers=0"]
SHORT += ["metrics=[]", "sampling.steps=1", "sampling.images=1", "steps=6", "every.log=1", "every.checkpoint=2"]
SHORT += ["every.validate=4"]
SEEN = Path("seen")  # where ranks write down what they see: not in ./runs, whose disk may be full


class Ranks:
    """The processes of one run, and what they said."""

    def __init__(self, processes: Sequence[ForkProcess], logs: Sequence[Path]):
        self.processes, self.logs = processes, logs

    def kill(self, rank: int) -> None:
        self.processes[rank].kill()

    def wait(self, seconds: float = 180, first: int | None = None) -> list[int]:
        """The exit codes of the first so many, or of all; the others are ended, and one that hangs is an error."""
        end = time.monotonic() + seconds
        for process in self.processes[:first]:
            process.join(max(0, end - time.monotonic()))
        codes = [process.exitcode for process in self.processes[:first]]
        self.end()
        assert None not in codes, f"a rank hangs: {codes}; {self.said()}"
        return codes

    def end(self) -> None:
        for process in self.processes:
            if process.is_alive():
                process.kill()
                process.join()

    def said(self, rank: int = 0) -> str:
        return self.logs[rank].read_text()


class At(Callback):
    """Does something before a step is taken, with what is saved before it on the disk."""

    def __init__(self, step: int, act: Callable[[], object], rank: int | None = None):
        self.step, self.act, self.rank = step, act, rank

    def on_train_batch_start(self, trainer: Trainer, *_: object) -> None:
        if trainer.global_step == self.step and self.rank in (None, trainer.global_rank):
            self.act()


def launched(world: int, machines: int = 1) -> list[dict[str, str]]:
    """What torchrun tells each rank by its environment."""
    each = world // machines
    shared = {"WORLD_SIZE": world, "LOCAL_WORLD_SIZE": each, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": _port()}
    shared |= {"TORCHELASTIC_RUN_ID": "lumen", "GLOO_SOCKET_IFNAME": "lo"}
    ranks = [{"RANK": rank, "LOCAL_RANK": rank % each, "GROUP_RANK": rank // each} for rank in range(world)]
    return [{key: str(value) for key, value in (shared | rank).items()} for rank in ranks]


def _port() -> int:
    """One that nobody listens at."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def begun(
    command: list[str],
    ranks: Sequence[dict[str, str]] = ({},),
    watchers: Sequence[Callback] = (),
    first: Callable[[int], None] = lambda rank: None,
) -> Ranks:
    """Runs `lumen ...` once for each rank's environment.

    Args:
        watchers: callbacks of the training, beside its own.
        first: what a rank does before all else.
    """
    logs = [Path(f"rank{rank}.log") for rank in range(len(ranks))]

    def body(rank: int) -> None:
        sys.stdout = sys.stderr = open(logs[rank], "w", buffering=1)  # noqa: SIM115  until the process ends
        os.environ.update(ranks[rank])
        run.train = partial(run.train, watchers=watchers)
        first(rank)
        sys.exit(main(command))

    processes = [get_context("fork").Process(target=body, args=[rank]) for rank in range(len(ranks))]
    for process in processes:
        process.start()
    return Ranks(processes, logs)


@pytest.fixture
def forks(place):
    """Begins a command in so many ranks; what is still running when a test ends is ended."""
    started = []

    def forks(command: list[str], world: int = 1, watchers: Sequence[Callback] = (), ranks=None, **how) -> Ranks:
        ranks = ranks or (launched(world) if world > 1 else [{}])
        started.append(begun(command, ranks, watchers, **how))
        return started[-1]

    yield forks
    for each in started:
        each.end()


@pytest.fixture
def begin(forks):
    """Begins or continues the short run in ./runs."""

    def begin(*flags: str, world: int = 1, watchers: Sequence[Callback] = (), **how) -> Ranks:
        return forks(_short(world, *flags), world, [*watchers, witness()], **how)

    return begin


@pytest.fixture
def free_port() -> Callable[[], int]:
    return _port


@pytest.fixture
def short() -> Callable[..., list[str]]:
    """The command of the short run of so many ranks, with further flags."""
    return _short


@pytest.fixture
def hashes() -> Callable[[Path], dict[str, str]]:
    """What a run has come to, and what its ranks have seen."""
    return _hashes


@pytest.fixture
def at() -> type[At]:
    """at(step, act, rank=None): a callback that acts then."""
    return At


@pytest.fixture
def dies() -> Callable[[], None]:
    """What kill -9 does."""
    return partial(signal.raise_signal, signal.SIGKILL)


@pytest.fixture
def made(place) -> Callable[[], Path]:
    """The folder of the one run in ./runs."""
    return lambda: next(place.glob("runs/scenes/*/seed0"))


@pytest.fixture(scope="session")
def reference(tmp_path_factory) -> Callable[[int], dict[str, str]]:
    """The hashes of the short run of so many ranks that nothing disturbs."""
    found = {}

    def reference(world: int = 1) -> dict[str, str]:
        if world not in found:
            before, place = Path.cwd(), tmp_path_factory.mktemp(f"reference{world}")
            os.chdir(place)
            run = begun(_short(world), launched(world) if world > 1 else [{}], [witness()])
            assert run.wait() == [0] * world, run.said()
            found[world] = _hashes(next(place.glob("runs/scenes/*/seed0")))
            os.chdir(before)
        return found[world]

    return reference


@pytest.fixture
def result(made) -> Callable[[], dict[str, str]]:
    """The hashes of the run in ./runs and of what its ranks have seen."""
    return lambda: _hashes(made())


def _short(world: int, *flags: str) -> list[str]:
    several = [f"devices={world}"] if world > 1 else []
    return ["train", "scenes", *SHORT, "wandb=disabled", *several, *flags]


def witness() -> Witness:
    SEEN.mkdir(exist_ok=True)
    return Witness(SEEN, "")


def _hashes(place: Path) -> dict[str, str]:
    return evidence(place) | _seen(SEEN)
