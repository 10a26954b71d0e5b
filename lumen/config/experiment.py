"""Experiments: base.yaml, one file of differences and key=value overrides, as one validated config."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from lumen.config.builder import ConfigBuilder
from lumen.config.files import list_experiments, read_experiment
from lumen.config.groups import iterate_settings
from lumen.config.schema import Config
from lumen.core.plain_text import mark_plain

__all__ = ["dump", "list_experiments", "load", "reload"]


def load(experiment: str, overrides: Sequence[str] = (), complete: bool = True) -> Config:
    """Return the config of an experiment with `key=value` overrides.

    Args:
        experiment: Name, or path of a YAML file.
        complete: Whether a required argument that nothing sets, such as data.root, is an error.

    Raises:
        BadConfig: Unknown keys, wrong types or wrong arguments of components, all in one message.
        UnknownName: There is no such experiment.
    """
    builder = ConfigBuilder(read_experiment("base"))
    builder.apply(f"{Path(experiment).stem}.yaml", iterate_settings(read_experiment(experiment)))
    config = builder.build(overrides, complete)
    config.experiment = Path(experiment).stem
    return config


def reload(saved: dict[str, Any], overrides: Sequence[str] = ()) -> Config:
    """Return the config of a run with overrides, which replace the `flags` of the run.

    Args:
        saved: Content of the run's config.yaml. Keys that it lacks count as their defaults.
    """
    builder = ConfigBuilder(read_experiment("base") | {"metrics": []})
    records = ("experiment", "flags", "defaults")
    builder.apply("config.yaml", iterate_settings({k: v for k, v in saved.items() if k not in records}))
    builder.defaults = {
        slot: {key: mark_plain(value) for key, value in arguments.items()}
        for slot, arguments in saved.get("defaults", {}).items()
    }
    config = builder.build(overrides, complete=True)
    config.experiment = saved["experiment"]
    return config


def dump(config: Config) -> dict[str, Any]:
    """Return a config as a nested dict of plain values, as config.yaml, checkpoints and W&B hold it."""
    return OmegaConf.to_container(OmegaConf.structured(config), resolve=False)
