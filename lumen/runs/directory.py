"""Run directory: its path, its config, its results."""

import re
import secrets
from pathlib import Path
from typing import Any

import yaml

from lumen.config.experiment import dump
from lumen.config.identity import config_digest, differences, format_overrides, run_name, sanitize
from lumen.config.schema import SLOTS, Config
from lumen.core.console import LOG_NAME
from lumen.core.errors import BadFile, Mistake, RunBusy, UnknownName
from lumen.core.files import write
from lumen.core.paths import user_path
from lumen.core.readers import Shape, explain_damage, read_json, read_text, read_yaml, require_shape
from lumen.evaluation.keys import metric_keys

CONFIG_REMEDY = "remove it and repeat the run's lumen train command, which writes it again"
CONFIG_SHAPE: Shape = {"experiment": str, "flags": dict, "metrics": dict, "data": {"name": str}}
PROVENANCE_SHAPE: Shape = {
    "command": str,
    "commit": str | None,
    "data": str,
    "hardware": {"gpus": list, "cpus": int | None, "machine": str},
    "versions": dict,
}
PROTOCOL_SHAPE: Shape = {
    "hash": str,
    "images": int,
    "samples": int,
    "sampling": {"sampler": str, "steps": int, "guidance": int | float},
}


def run_directory(config: Config) -> Path:
    """Return runs/<experiment>/<overrides>/seed<k>; `name` stands in place of the overrides if it is set."""
    folder = config.name or run_name(dump(config))
    return Path(config.runs) / sanitize(config.experiment) / folder / f"seed{config.seed}"


def eval_directory(run: Path, config: Config) -> Path:
    """Return the directory of a further evaluation; every override names it, seed and data included."""
    return run / "eval" / format_overrides(config.flags)


def trained_run(directory: Path) -> Path:
    """Return the run that a directory is of: its own, or that of a further evaluation."""
    return directory.parent.parent if directory.parent.name == "eval" else directory


def group_name(directory: Path) -> str:
    """Return the name that a run, or an evaluation of it, shares with those of other seeds."""
    parts = directory.parts[-5:] if directory.parent.name == "eval" else directory.parts[-3:]
    return "/".join(part for part in parts if not re.fullmatch(r"seed\d+", part))


def result_files(directory: Path) -> list[Path]:
    """Return what a finished run is worth keeping for: config, scores, pictures, what was learnt."""
    files = [path for path in sorted(directory.iterdir()) if path.is_file() and path.name not in ("id", LOG_NAME)]
    return [*files, *sorted((directory / "checkpoints").glob("*.ckpt"))[-1:]]


def run_digest(directory: Path, config: Config) -> str:
    """Return the digest that this run's checkpoints carry: that of its own config.yaml, where there is one.

    Later releases add keys, and with them change the digest of the same command.
    """
    stored = directory / "config.yaml"
    return config_digest(load_run_config(directory) if stored.exists() else dump(config))


def verify_config(directory: Path, config: Config) -> None:
    """Compare a run's config.yaml, if there is one, with the config of a command.

    A folder that `name` has named holds one config, whatever the seed.

    Raises:
        RunBusy: The directory holds a run of another config.
    """
    seeds = sorted(directory.parent.glob("seed[0-9]*/config.yaml")) if config.name else []
    for stored in dict.fromkeys((directory / "config.yaml", *seeds)):
        if stored.exists() and (changed := differences(load_run_config(stored.parent), dump(config))):
            message = "; ".join(f"{key} was {before!r}, is now {now!r}" for key, (before, now) in changed.items())
            cause = "the experiment's file has changed since: put it back, or choose another runs= folder"
            remedy = f"give this run another name than {config.name}" if config.name else cause
            raise RunBusy(f"{stored.parent} holds a run of another config ({message}); {remedy}.")


def write_or_verify_config(directory: Path, config: Config) -> None:
    """Write config.yaml, or compare the one that exists.

    Raises:
        RunBusy: The directory holds a run of another config.
    """
    verify_config(directory, config)
    if not (directory / "config.yaml").exists():
        write(directory / "config.yaml", yaml.safe_dump(dump(config), sort_keys=False))


def verify_dataset(directory: Path, fingerprint: str) -> None:
    """Compare the data set with the one that a run started with, if its provenance.json says which that was.

    Raises:
        RunBusy: The run was trained on other data than what is there now.
        BadFile: provenance.json is damaged.
    """
    if not (directory / "provenance.json").exists():
        return
    before = load_provenance(directory)["data"]
    if before != fingerprint:
        raise RunBusy(
            f"{directory} was started on other data (fingerprint {before}, now {fingerprint}); give that data.root, "
            "or choose another runs= folder."
        )


def _verify_root(directory: Path, config: Config) -> None:
    """Compare the data set of a config with that of a finished run. The root that the run recorded costs nothing."""
    root = config.data.get("root")  # data that is rendered has none
    if root is None:
        return
    recorded = load_run_config(directory)["data"].get("root") if (directory / "config.yaml").exists() else None
    if recorded != root or not user_path(root).is_dir():
        from lumen.runs.data import build_source  # it imports numpy

        verify_dataset(directory, build_source(config).fingerprint())


def load_run_config(directory: Path) -> dict[str, Any]:
    """Return the config that a run directory was made with.

    Raises:
        UnknownName: This is no run directory.
        BadFile: The file is damaged.
    """
    path = directory / "config.yaml"
    if not path.exists():
        raise UnknownName(
            f"{directory} is no run directory, because it has no config.yaml; give one that lumen train made, such as "
            "runs/scenes/default/seed0."
        )
    tree = read_yaml(path, CONFIG_REMEDY, CONFIG_SHAPE)
    with explain_damage(path, CONFIG_REMEDY):
        components = {slot: {"name": str} for slot in SLOTS if slot in tree}  # an older run lacks some
        groups = {key: dict for key in ("defaults", "metrics") if key in tree}
        require_shape(tree, components | groups)
        for group in groups:
            require_shape(tree[group], dict.fromkeys(tree[group], dict))
    return tree


def load_provenance(directory: Path) -> dict[str, Any]:
    """Return a run's provenance.json.

    Raises:
        BadFile: It is damaged.
    """
    remedy = "put it back, or remove it: a run without it resumes on the data that is there now"
    return read_json(directory / "provenance.json", remedy, PROVENANCE_SHAPE)


def run_id(directory: Path) -> str:
    """Return the run's random id, created at its first start; the path alone would be shared with other machines."""
    path, remedy = directory / "id", "remove it, and W&B takes the run for a new one"
    if not path.exists():
        write(path, secrets.token_hex(6))
    identifier = read_text(path, remedy)
    if not (identifier.isascii() and identifier.isalnum()):
        raise BadFile(f"{path} holds no id of a run, but {identifier[:20]!r}; {remedy}.")
    return identifier


def load_results(directory: Path) -> dict[str, Any] | None:
    """Return a finished run's metrics.json; None if the run is not finished.

    Raises:
        BadFile: It is damaged, or holds no metrics. The run is not finished then.
        Mistake: The system does not give it.
    """
    path, remedy = directory / "metrics.json", "repeat the run's command, which evaluates it again"
    if not path.exists():
        return None
    results = read_json(path, remedy)
    with explain_damage(path, remedy):
        _verify_results(results)
    return results


def _verify_results(results: dict[str, Any]) -> None:
    """Verify that there are metrics, each a number or an interval, and a protocol as others are compared with.

    Raises:
        ValueError: It is not so.
    """
    keys = metric_keys(results)
    if not keys:
        raise ValueError("it holds no metrics")
    for key in keys:
        value = results[str(key)]
        if key.interval and not (isinstance(value, list) and len(value) == 2):
            raise ValueError(f"'{key}' is no interval")
        if not all(isinstance(number, int | float) for number in (value if key.interval else [value])):
            raise ValueError(f"'{key}' is no number")
    optional = {"protocol": PROTOCOL_SHAPE, "sampling": {"images": int}}
    require_shape(results, {key: shape for key, shape in optional.items() if key in results})
    require_shape(results.get("protocol", {}).get("metrics", {}), {})


def is_finished(directory: Path) -> bool:
    """Return whether a run has finished; one whose results are damaged has not."""
    try:
        return load_results(directory) is not None
    except Mistake:
        return False


def load_finished(directory: Path, config: Config) -> dict[str, Any] | None:
    """Return a finished run's results, and print that nothing is left to do; None if the run is not finished.

    Damaged results are no reason to refuse the command that writes them again: what is wrong is printed.

    Raises:
        DatasetMissing: The data set of the config does not exist.
        RunBusy: The run was trained on other data.
    """
    try:
        results = load_results(directory)
    except BadFile as damage:
        print(damage)
        return None
    if config.name:  # any other folder names the settings of its run
        verify_config(directory, config)
    if results is not None:
        _verify_root(directory, config)
        print(f"{directory} is finished; its results are in metrics.json. Remove the directory to train again.")
    return results
