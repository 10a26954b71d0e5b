"""Shapes in annotations are checked, nothing is fetched, and small networks are made once."""

import os

os.environ |= {"HF_HUB_OFFLINE": "1", "WANDB_MODE": "offline", "WANDB_SILENT": "true"}
os.environ.setdefault("OMP_NUM_THREADS", "1")  # networks this small only lose time to threads
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
for name in ("WANDB_API_KEY", "WANDB_RUN_ID"):
    os.environ.pop(name, None)

import sys
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
install_import_hook([*(f"lumen.{room}" for room in rooms), "backbones", "datamodules"], "checker.check")

from pathlib import Path

import pytest
import torch


@pytest.fixture(scope="session")
def pipeline():
    """The untrained small Stable Diffusion; shared, so no test may change it."""
    from lumen.pipeline import load

    return load("none", "tiny")


@pytest.fixture(scope="session")
def backbone():
    """A small untrained ViT of 32 channels on cells of 8 px."""
    from lumen.registry import backbones

    return backbones.build("dino", size="tiny", patch=8, weights="none")


@pytest.fixture
def batch():
    """Three random images of 32 px with captions."""
    from lumen.contracts import Batch

    image = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return Batch(image=image, caption=["a red ball", "a house", ""], id=["a", "b", "c"])


@pytest.fixture
def place(tmp_path, monkeypatch):
    """An empty folder that commands run in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def samples() -> Path:
    """The folder of real samples; tests of them are left out where LUMEN_SAMPLES does not name one."""
    if "LUMEN_SAMPLES" not in os.environ:
        pytest.skip("LUMEN_SAMPLES names no folder with real samples")
    return Path(os.environ["LUMEN_SAMPLES"])
