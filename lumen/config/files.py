"""YAML files of experiments and of memory presets."""

from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lumen.core.errors import BadConfig, UnknownName, suggestion


def list_experiments() -> list[str]:
    """Return the names of the YAML files beside base.yaml."""
    names = (Path(file.name) for file in files("experiments").iterdir())
    return sorted(name.stem for name in names if name.suffix == ".yaml" and name.stem != "base")


def list_memory_presets() -> list[int]:
    """Return the GPU memory sizes in GB that have a preset."""
    return sorted(int(Path(file.name).stem) for file in (files("experiments") / "memory").iterdir())


def read_memory_preset(memory: int) -> dict[str, Any]:
    """Return the settings of a preset for GPUs with this memory in GB."""
    return read_experiment(str(files("experiments") / "memory" / f"{memory}.yaml"))


def read_experiment(name: str) -> dict[str, Any]:
    """Return the settings of an experiment, by its name or by the path of its YAML file.

    Raises:
        UnknownName: There is no such experiment or file.
        BadConfig: The file is no YAML with keys and values.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else None
    if path is None and name not in [*list_experiments(), "base"]:
        hint = suggestion(name, list_experiments())
        raise UnknownName(f"no experiment is called '{name}'; {hint} Or give the path of a .yaml file.")
    try:
        text = (path or files("experiments") / f"{name}.yaml").read_text()
        tree = OmegaConf.to_container(OmegaConf.create(text), resolve=False)
    except FileNotFoundError:
        raise UnknownName(
            f"there is no file {name}; create it, or name an experiment: {', '.join(list_experiments())}."
        ) from None
    except (yaml.YAMLError, OmegaConfBaseException, UnicodeDecodeError, RecursionError) as error:
        raise BadConfig(f"{name} cannot be read as YAML: {' '.join(str(error).split())}.") from None
    if not isinstance(tree, dict):
        raise BadConfig(f"{name} must hold keys and values, not {type(tree).__name__}.")
    return tree
