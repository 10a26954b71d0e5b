"""YAML files of experiments and of memory presets."""

from importlib.resources import files
from pathlib import Path
from typing import Any

from lumen.core.errors import UnknownName, suggestion
from lumen.core.paths import user_path
from lumen.core.plain_text import PlainLoader
from lumen.core.readers import explain_damage, parse_yaml, require_shape


def list_experiments() -> list[str]:
    """Return the names of the YAML files beside base.yaml."""
    names = (Path(file.name) for file in files("experiments").iterdir())
    return sorted(name.stem for name in names if name.suffix == ".yaml" and name.stem != "base")


def read_title(*path: str) -> str:
    """Return the comment in the first line of a YAML file beside base.yaml, or below."""
    text = files("experiments").joinpath(*path).read_text(encoding="utf-8")
    return text.partition("\n")[0].lstrip("# ")


def list_memory_presets() -> list[int]:
    """Return the GPU memory sizes in GB that have a preset."""
    return sorted(int(Path(file.name).stem) for file in (files("experiments") / "memory").iterdir())


def read_memory_preset(memory: int) -> dict[str, Any]:
    """Return the settings of a preset for GPUs with this memory in GB."""
    return read_experiment(str(files("experiments") / "memory" / f"{memory}.yaml"))


def read_experiment(name: str) -> dict[str, Any]:
    """Return the settings of an experiment, by its name or by the path of its YAML file.

    Scalars outside of quotes are PlainText, which the type of their key reads.

    Raises:
        UnknownName: There is no such experiment or file.
        BadFile: The file is no YAML with keys and values.
    """
    is_path = name.endswith((".yaml", ".yml"))
    if not is_path and name not in [*list_experiments(), "base"]:
        hint = suggestion(name, list_experiments())
        raise UnknownName(f"no experiment is called '{name}'; {hint} Or give the path of a .yaml file.")
    path = user_path(name) if is_path else files("experiments") / f"{name}.yaml"
    if not path.is_file():
        experiments = ", ".join(list_experiments())
        raise UnknownName(f"there is no file {name}; create it, or name an experiment: {experiments}.")
    with explain_damage(path, "correct it"):
        tree = parse_yaml(path.read_text(encoding="utf-8"), PlainLoader)
        require_shape({} if tree is None else tree, {})
    return tree or {}
