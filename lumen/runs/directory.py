"""A run's folder: named by its command, claimed by one process, with the record of how it came about."""

import json
import secrets
from pathlib import Path
from typing import Any

import yaml

from lumen.config.experiment import dump
from lumen.config.identity import _decisive, _joined, name_of, safe
from lumen.config.schema import Config
from lumen.core.errors import RunBusy, UnknownName
from lumen.core.files import write


def eval_of(place: Path, config: Config) -> Path:
    """Where a run is measured again: every flag names the folder, seed and data included."""
    return place / "eval" / _joined(config.flags)


def place_of(config: Config) -> Path:
    """runs/<experiment>/<flags>/seed<k>."""
    return Path(config.runs) / safe(config.experiment) / name_of(config) / f"seed{config.seed}"


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
