"""Shapes in annotations are checked, nothing is fetched, and small networks are made once."""

import os
import signal

# The suite passes from any shell: in the background of a script, where SIGINT is ignored, and in a job of a cluster.
signal.signal(signal.SIGINT, signal.default_int_handler)
for name in list(os.environ):
    if name.startswith(("WANDB_", "SLURM_", "TORCHELASTIC_", "MASTER_")) or name.endswith(("RANK", "WORLD_SIZE")):
        del os.environ[name]
os.environ |= {"HF_HUB_OFFLINE": "1", "WANDB_MODE": "offline", "WANDB_SILENT": "true"}
os.environ.setdefault("OMP_NUM_THREADS", "1")  # networks this small only lose time to threads
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import gc
import subprocess
import sys
import traceback
from contextlib import suppress
from functools import partial
from importlib.util import find_spec
from pkgutil import iter_modules
from types import ModuleType

from beartype import BeartypeConf, beartype
from jaxtyping import install_import_hook

# The hook wants the name of a function: beartype, which takes 1 where a float is wanted, as PEP 484 does.
checker = ModuleType("checker")
checker.check = beartype(conf=BeartypeConf(is_pep484_tower=True))
sys.modules["checker"] = checker
# Before anything of the house is imported, or its annotations would go unchecked. The renderer has no shapes.
rooms = [m.name for m in iter_modules(find_spec("lumen").submodule_search_locations) if m.name != "scenes"]
rooms += ["scenes.recipes"]
install_import_hook([*(f"lumen.{room}" for room in rooms), "backbones", "datamodules"], "checker.check")

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from lumen.core.lifetime import end_rank_with_parent

# On a CPU no autograd threads are started then. The first backward pass of fake tensors would start one for a fake GPU,
# and a fork of a process with autograd threads cannot train.
torch.ones((), requires_grad=True).backward()


def pytest_xdist_auto_num_workers(config) -> int:
    """Two processes for the whole suite; a few files are tested sooner in this one, which has imported already."""
    return 2 if config.args == config.getini("testpaths") else 0


def pytest_collection_finish(session) -> None:
    """Leave what has been imported out of all garbage collections, which take half a second each otherwise.

    A process that forks then shares more of its memory, too.
    """
    gc.collect()
    gc.freeze()


def pytest_sessionfinish() -> None:
    """Let the interpreter free at its end what was left out; libraries look for leaks then."""
    gc.unfreeze()


@pytest.fixture(scope="session")
def pipeline():
    """The untrained small Stable Diffusion; shared, so no test may change it."""
    from lumen.diffusion.loading import load

    return load("none", "tiny")


@pytest.fixture(scope="session")
def backbone():
    """A small untrained ViT of 32 channels on cells of 8 px."""
    from lumen.core.registry import backbones

    return backbones.build("dino", size="tiny", patch=8, weights="none")


@pytest.fixture
def batch():
    """Three random images of 32 px with captions."""
    from lumen.core.interfaces import Batch

    image = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return Batch(image=image, caption=["a red ball", "a house", ""], id=["a", "b", "c"])


@pytest.fixture
def workdir(tmp_path, monkeypatch):
    """An empty folder that commands run in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def forking(monkeypatch):
    """Lets every `python -m lumen ...` that a test begins be a fork of this process."""
    monkeypatch.setattr(subprocess, "Popen", Fork)


class Fork(subprocess.Popen):
    """A process that imports nothing anew where it is one of lumen, for that takes ten seconds.

    In all else it is as it would be: its words, environment, files, process group, the ranks that it starts, its end.
    """

    def __init__(self, command, env=None, preexec_fn=None, **how):
        module, *words = command[command.index("-m") + 1 :] if "-m" in command else [""]
        if module in ("lumen", "lumen.__main__"):  # the second is how Lightning names it to start other ranks
            preexec_fn = partial(_begin, words, env or dict(os.environ), _files(), preexec_fn)
        super().__init__(command, env=env, preexec_fn=preexec_fn, **how)


def _begin(words: list[str], environment: dict[str, str], before: set[int], prepare: Callable | None) -> None:
    """What a fork does where another process would begin a program: all of it, and ends."""
    code = 1
    try:
        for file in _files() - before - {0, 1, 2}:  # Popen's own pipes; it waits until the program has begun
            with suppress(OSError):
                os.close(file)
        os.environ.clear()
        os.environ.update(environment)
        sys.stdout, sys.stderr = map(partial(open, mode="w", buffering=1, closefd=False), (1, 2))
        if prepare:
            prepare()
        for number in (signal.SIGPIPE, signal.SIGXFSZ):  # errors of writing instead, as Python has it from its start
            signal.signal(number, signal.SIG_IGN)
        gc.enable()
        end_rank_with_parent()  # as the import of lumen does
        import lumen.__main__ as program

        sys.argv, sys.modules["__main__"] = ["lumen", *words], program
        code = program.main(words)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _files() -> set[int]:
    return set(map(int, os.listdir("/proc/self/fd")))


@pytest.fixture(scope="session")
def samples() -> Path:
    """The folder of real samples; tests of them are left out where LUMEN_SAMPLES does not name one."""
    if "LUMEN_SAMPLES" not in os.environ:
        pytest.skip("LUMEN_SAMPLES names no folder with real samples")
    return Path(os.environ["LUMEN_SAMPLES"])
