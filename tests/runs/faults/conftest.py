"""Short runs whose ranks are forks: killed, they die as any process, without the seconds that importing takes."""

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
import torch  # noqa: F401  imported once, for all forks
from lightning.pytorch import Callback, Trainer

from lumen.__main__ import main
from lumen.runs import train as training
from lumen.runs.state_hashes import StepRecorder, hash_records, hash_run_state

SHORT = ["validation=2", "data.images=6", "workers=0", "metrics=[]", "sampling.steps=1", "sampling.images=1", "steps=6"]
SHORT += ["every.log=1", "every.checkpoint=2", "every.validate=4", "wandb=disabled"]
RECORDS = Path("records")  # of what ranks read: not in ./runs, whose disk may be full


class Ranks:
    """Processes of one run, and their output."""

    def __init__(self, processes: Sequence[ForkProcess], logs: Sequence[Path]):
        self.processes, self.logs = processes, logs

    def kill(self, rank: int) -> None:
        self.processes[rank].kill()

    def wait(self, seconds: float = 180, first: int | None = None) -> list[int]:
        """Return the exit codes of the first few ranks, or of all, and kill the others; a rank that hangs fails."""
        end = time.monotonic() + seconds
        for process in self.processes[:first]:
            process.join(max(0, end - time.monotonic()))
        codes = [process.exitcode for process in self.processes[:first]]
        self.kill_all()
        assert None not in codes, f"a rank hangs: {codes}; {self.output()}"
        return codes

    def kill_all(self) -> None:
        for process in self.processes:
            if process.is_alive():
                process.kill()
                process.join()

    def output(self, rank: int = 0) -> str:
        return self.logs[rank].read_text()


class BeforeStep(Callback):
    """Callback that acts before a step, when the checkpoint of the steps before it is on disk."""

    def __init__(self, step: int, act: Callable[[], object], rank: int | None = None):
        self.step, self.act, self.rank = step, act, rank

    def on_train_batch_start(self, trainer: Trainer, *_: object) -> None:
        if trainer.global_step == self.step and self.rank in (None, trainer.global_rank):
            self.act()


def torchrun_environments(world_size: int) -> list[dict[str, str]]:
    """Return what torchrun passes to each rank in its environment."""
    shared = {"WORLD_SIZE": world_size, "LOCAL_WORLD_SIZE": world_size, "MASTER_ADDR": "127.0.0.1"}
    shared |= {"MASTER_PORT": find_port(), "TORCHELASTIC_RUN_ID": "lumen", "GLOO_SOCKET_IFNAME": "lo", "GROUP_RANK": 0}
    ranks = [shared | {"RANK": rank, "LOCAL_RANK": rank} for rank in range(world_size)]
    return [{key: str(value) for key, value in environment.items()} for environment in ranks]


def find_port() -> int:
    """Return a port that is free."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def fork_ranks(
    command: list[str],
    environments: Sequence[dict[str, str]] = ({},),
    callbacks: Sequence[Callback] = (),
    prepare: Callable[[int], None] = lambda rank: None,
) -> Ranks:
    """Run `lumen ...` once per environment.

    Args:
        callbacks: Callbacks of the training beside its own.
        prepare: Function of the rank that it calls first.
    """
    logs = [Path(f"rank{rank}.log") for rank in range(len(environments))]

    def run(rank: int) -> None:
        sys.stdout = sys.stderr = open(logs[rank], "w", buffering=1)  # noqa: SIM115  until the process ends
        os.environ.update(environments[rank])
        training.train = partial(training.train, observers=callbacks)
        prepare(rank)
        sys.exit(main(command))

    processes = [get_context("fork").Process(target=run, args=[rank]) for rank in range(len(environments))]
    for process in processes:
        process.start()
    return Ranks(processes, logs)


def world_environments(world_size: int) -> Sequence[dict[str, str]]:
    return torchrun_environments(world_size) if world_size > 1 else [{}]


@pytest.fixture
def start_command(workdir):
    """Function that starts a command in each of its ranks; those still running when a test ends are killed."""
    started = []

    def start_command(
        command: list[str], world_size: int = 1, callbacks: Sequence[Callback] = (), environments=None, **options
    ) -> Ranks:
        started.append(fork_ranks(command, environments or world_environments(world_size), callbacks, **options))
        return started[-1]

    yield start_command
    for ranks in started:
        ranks.kill_all()


@pytest.fixture
def start_run(start_command, short_command):
    """Function that starts or resumes the short run of the task in ./runs."""

    def start_run(*flags: str, world_size: int = 1, callbacks: Sequence[Callback] = (), **options) -> Ranks:
        command = short_command(*flags, world_size=world_size)
        return start_command(command, world_size, [*callbacks, build_recorder()], **options)

    return start_run


@pytest.fixture
def short_command(tiny) -> Callable[..., list[str]]:
    """Function that returns the command of the short run of the task, with further flags."""
    return partial(build_command, tiny)


def build_command(tiny: list[str], *flags: str, world_size: int = 1) -> list[str]:
    devices = [f"devices={world_size}"] if world_size > 1 else []
    if any(flag.startswith("backbone=") for flag in flags):  # whose arguments are others
        tiny = [flag for flag in tiny if not flag.startswith("backbone")]
    return ["train", "scenes", *tiny, *SHORT, *devices, *flags]


def build_recorder() -> StepRecorder:
    RECORDS.mkdir(exist_ok=True)
    return StepRecorder(RECORDS, "")


@pytest.fixture
def free_port() -> Callable[[], int]:
    return find_port


@pytest.fixture
def before_step() -> type[BeforeStep]:
    """before_step(step, act, rank=None): a callback that acts then."""
    return BeforeStep


@pytest.fixture
def kill_self() -> Callable[[], None]:
    """Function that does what kill -9 does."""
    return partial(signal.raise_signal, signal.SIGKILL)


@pytest.fixture
def run_dir(workdir) -> Callable[[], Path]:
    """Function that returns the directory of the one run in ./runs."""
    return lambda: next(workdir.glob("runs/scenes/*/seed0"))


@pytest.fixture
def hash_run(run_dir) -> Callable[[], dict[str, str]]:
    """Function that returns hashes of the run in ./runs and of what its ranks have read."""
    return lambda: hash_run_and_records(run_dir())


def hash_run_and_records(directory: Path) -> dict[str, str]:
    return hash_run_state(directory) | hash_records(RECORDS)


@pytest.fixture(scope="session")
def uninterrupted(tmp_path_factory, tiny_flags_of) -> Callable[[str, int], dict[str, str]]:
    """Function that returns the hashes of an uninterrupted short run of a task on so many ranks, trained once."""
    hashes: dict[tuple[str, int], dict[str, str]] = {}

    def uninterrupted(task: str, world_size: int) -> dict[str, str]:
        if (task, world_size) not in hashes:
            before, directory = Path.cwd(), tmp_path_factory.mktemp(f"{task}{world_size}")
            os.chdir(directory)
            command = build_command(tiny_flags_of(task), world_size=world_size)
            run = fork_ranks(command, world_environments(world_size), [build_recorder()])
            assert run.wait() == [0] * world_size, run.output()
            hashes[task, world_size] = hash_run_and_records(next(directory.glob("runs/scenes/*/seed0")))
            os.chdir(before)
        return hashes[task, world_size]

    return uninterrupted


@pytest.fixture
def reference_hashes(task, uninterrupted) -> Callable[..., dict[str, str]]:
    """Function that returns the hashes of the uninterrupted short run of the task."""
    return lambda world_size=1: uninterrupted(task, world_size)
