"""A run's folder: named by its command, claimed by one process, with the record of how it came about."""

import fcntl
import hashlib
import json
import math
import os
import platform
import re
import secrets
import shlex
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any

import yaml

from lumen.config import dump
from lumen.errors import Mistake, RunBusy, UnknownName
from lumen.files import write
from lumen.schema import PLACE, SHARES, Config

LOCKS: set[IO] = set()  # of the folders that this process holds
LIBRARIES = ("torch", "lightning", "diffusers", "transformers", "timm", "open_clip_torch", "wandb", "omegaconf")


def name_of(config: Config) -> str:
    """The flags of a run in a fixed order, as a folder name: only what changes the result."""
    flags = {key: value for key, value in config.flags.items() if key not in PLACE}
    return _joined(_together(flags, dump(config)))


def eval_of(place: Path, config: Config) -> Path:
    """Where a run is measured again: every flag names the folder, seed and data included."""
    return place / "eval" / _joined(config.flags)


def place_of(config: Config) -> Path:
    """runs/<experiment>/<flags>/seed<k>."""
    return Path(config.runs) / safe(config.experiment) / name_of(config) / f"seed{config.seed}"


@contextmanager
def claim(folder: Path, name: str = ".lock") -> Iterator[Path]:
    """Holds the folder, or what else `name` stands for in it, for this process.

    Raises:
        RunBusy: another process is at work in it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    except OSError as error:
        raise Mistake(f"{folder} cannot be written: {error.strerror}; choose another folder with runs=DIR.") from None
    with open(folder / name) as lock:
        try:
            # The system drops the lock when the process ends, however it ends: nothing stale is left.
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise RunBusy(
                f"{folder} is being written by another process; wait for it, or give this run another seed= or runs=."
            ) from None
        LOCKS.add(lock)
        try:
            yield folder
        finally:
            LOCKS.discard(lock)


def _let_go() -> None:
    """For processes forked to read images: they outlive a run that is killed, and must not hold its folder."""
    for lock in LOCKS:
        lock.close()


os.register_at_fork(after_in_child=_let_go)


def settle(folder: Path, config: Config) -> None:
    """Writes config.yaml once all parts are built, or makes sure that the one there says the same.

    Raises:
        RunBusy: the folder holds a run of another config.
    """
    path = folder / "config.yaml"
    if not path.exists():
        write(path, yaml.safe_dump(dump(config), sort_keys=False))
        return
    before, now = _decisive(saved(folder)), _decisive(dump(config))
    apart = sorted(k for k in before.keys() | now.keys() if before.get(k) != now.get(k))
    if apart:
        said = "; ".join(f"{key} was {before.get(key)!r}, is now {now.get(key)!r}" for key in apart)
        raise RunBusy(
            f"{folder} holds a run of another config ({said}); the experiment's file has changed since: "
            "put it back, or choose another runs= folder."
        )


def digest(config: Config) -> str:
    """16 hex digits that change with whatever changes what a run computes."""
    return hashlib.sha256(json.dumps(_decisive(dump(config)), sort_keys=True).encode()).hexdigest()[:16]


def _decisive(tree: dict[str, Any]) -> dict[str, Any]:
    """Of a config what decides on a run's results, by dotted keys."""
    records = ("flags.", "defaults.")
    settings = {k: v for k, v in flat(tree).items() if k not in PLACE and not k.startswith(records)}
    return _together(settings, tree)


def _together(settings: dict[str, Any], tree: dict[str, Any]) -> dict[str, Any]:
    """Of an elastic run the images of a step, however they are shared out among processes and micro-batches."""
    if not tree.get("elastic"):
        return settings
    rest = {key: value for key, value in settings.items() if key not in SHARES}
    return rest | {"together": math.prod(tree[share] for share in SHARES)}


def same_data(folder: Path, fingerprint: str) -> None:
    """
    Raises:
        RunBusy: the run in this folder has seen other data than what is there now.
    """
    before = json.loads((folder / "provenance.json").read_text())["data"]
    if before != fingerprint:
        raise RunBusy(
            f"{folder} was begun on other data (fingerprint {before}, now {fingerprint}); give that data.root, "
            "or choose another runs= folder."
        )


def saved(folder: Path) -> dict[str, Any]:
    """The config a run folder was made with.

    Raises:
        UnknownName: this is no run folder.
    """
    try:
        return yaml.safe_load((folder / "config.yaml").read_text())
    except OSError:
        raise UnknownName(
            f"{folder} is no run folder, for it has no config.yaml; give one that lumen train made, such as "
            "runs/scenes/default/seed0."
        ) from None


def identity(folder: Path) -> str:
    """The run's own random id, drawn when it first starts: the path alone would be shared by other machines."""
    path = folder / "id"
    if not path.exists():
        write(path, secrets.token_hex(6))
    return path.read_text()


def figures(folder: Path) -> dict[str, Any] | None:
    """A finished run's metrics.json; None where the run is not finished."""
    path = folder / "metrics.json"
    return json.loads(path.read_text()) if path.exists() else None


def provenance(verb: str, what: str, config: Config, facts: dict[str, str]) -> dict[str, Any]:
    """What a reader needs to believe or repeat the run: code, versions, hardware, data."""
    import torch  # here, so that `lumen show` can name a folder without it

    devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "command": shlex.join(["lumen", verb, what, *(f"{k}={v}" for k, v in config.flags.items())]),
        "commit": _commit(),
        "versions": {"python": platform.python_version()} | {name: version(name) for name in ("lumen", *LIBRARIES)},
        "hardware": {"gpus": devices, "cpus": os.cpu_count(), "machine": platform.machine()},
        "config": hashlib.sha256(json.dumps(dump(config), sort_keys=True).encode()).hexdigest()[:16],
        **facts,
    }


def _joined(flags: dict[str, Any]) -> str:
    return safe(",".join(f"{key}={value}" for key, value in sorted(flags.items()))) or "default"


def flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested keys joined by dots."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found


def safe(text: str) -> str:
    """Text from the user as one folder name: no separators, no leading dot, no more than a file system takes."""
    name = re.sub(r"[^\w.,=+-]", "_", text).lstrip(".")
    if name == text and len(name) <= 120:
        return name
    return f"{name[:100]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def _commit() -> str | None:
    """The commit of a checkout, with a mark where files differ from it; None for an installed package."""
    here = Path(__file__).resolve().parents[1]

    def git(*words: str) -> str:
        return subprocess.run(["git", "-C", here, *words], capture_output=True, text=True, check=True).stdout.strip()

    try:
        # An environment within somebody's repository is not a checkout of this one.
        if Path(git("rev-parse", "--show-toplevel")).resolve() != here:
            return None
        return git("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
    except (OSError, subprocess.CalledProcessError):
        return None
