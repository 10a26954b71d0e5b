"""Run directory: its path, its config, its results."""

import json
import secrets
from pathlib import Path
from typing import Any

import yaml

from lumen.config.experiment import dump
from lumen.config.identity import config_digest, differences, format_overrides, run_name, sanitize
from lumen.config.schema import Config
from lumen.core.errors import RunBusy, UnknownName
from lumen.core.files import write


def run_directory(config: Config) -> Path:
    """Return runs/<experiment>/<overrides>/seed<k>."""
    return Path(config.runs) / sanitize(config.experiment) / run_name(dump(config)) / f"seed{config.seed}"


def eval_directory(run: Path, config: Config) -> Path:
    """Return the directory of a further evaluation; every override names it, seed and data included."""
    return run / "eval" / format_overrides(config.flags)


def run_digest(directory: Path, config: Config) -> str:
    """Return the digest that this run's checkpoints carry: that of its own config.yaml, where there is one.

    Later releases add keys, and with them change the digest of the same command.
    """
    stored = directory / "config.yaml"
    return config_digest(load_run_config(directory) if stored.exists() else dump(config))


def verify_config(directory: Path, config: Config) -> None:
    """Compare a run's config.yaml, if there is one, with the config of a command.

    Raises:
        RunBusy: The directory holds a run of another config.
    """
    if not (directory / "config.yaml").exists():
        return
    if changed := differences(load_run_config(directory), dump(config)):
        message = "; ".join(f"{key} was {before!r}, is now {now!r}" for key, (before, now) in changed.items())
        raise RunBusy(
            f"{directory} holds a run of another config ({message}); the experiment's file has changed since: "
            "put it back, or choose another runs= folder."
        )


def write_or_verify_config(directory: Path, config: Config) -> None:
    """Write config.yaml, or compare the one that exists.

    Raises:
        RunBusy: The directory holds a run of another config.
    """
    verify_config(directory, config)
    if not (directory / "config.yaml").exists():
        write(directory / "config.yaml", yaml.safe_dump(dump(config), sort_keys=False))


def verify_dataset(directory: Path, fingerprint: str) -> None:
    """Compare the data set with the one that a run started with.

    Raises:
        RunBusy: The run was trained on other data than what is there now.
    """
    before = json.loads((directory / "provenance.json").read_text())["data"]
    if before != fingerprint:
        raise RunBusy(
            f"{directory} was started on other data (fingerprint {before}, now {fingerprint}); give that data.root, "
            "or choose another runs= folder."
        )


def load_run_config(directory: Path) -> dict[str, Any]:
    """Return the config that a run directory was made with.

    Raises:
        UnknownName: This is no run directory.
    """
    try:
        return yaml.safe_load((directory / "config.yaml").read_text())
    except OSError:
        raise UnknownName(
            f"{directory} is no run directory, because it has no config.yaml; give one that lumen train made, such as "
            "runs/scenes/default/seed0."
        ) from None


def run_id(directory: Path) -> str:
    """Return the run's random id, created at its first start; the path alone would be shared with other machines."""
    path = directory / "id"
    if not path.exists():
        write(path, secrets.token_hex(6))
    return path.read_text()


def load_results(directory: Path) -> dict[str, Any] | None:
    """Return a finished run's metrics.json; None if the run is not finished."""
    path = directory / "metrics.json"
    return json.loads(path.read_text()) if path.exists() else None


def load_finished(directory: Path) -> dict[str, Any] | None:
    """Return a finished run's results, and print that nothing is left to do; None if the run is not finished."""
    results = load_results(directory)
    if results is not None:
        print(f"{directory} is finished; its results are in metrics.json. Remove the directory to train again.")
    return results
