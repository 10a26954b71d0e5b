"""Reference of all keys: default and comment of base.yaml, type, range, and the code that reads them."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, is_dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, get_type_hints

import yaml

from lumen.config.files import list_experiments, read_experiment
from lumen.config.identity import is_evaluation_key
from lumen.config.keys import KEYS
from lumen.config.schema import NON_RESULT_KEYS, RANGES, REGISTRIES, SLOTS, Config
from lumen.core.type_words import describe_range, format_value

READERS = ("cli", "config", "runs", "sweeps")  # packages that read the config


@dataclass(frozen=True)
class KeyReference:
    """Documentation of a key.

    Attributes:
        default: Value in base.yaml.
        comment: Comment beside it.
    """

    name: str
    default: Any
    comment: str

    @property
    def setting(self) -> str:
        """Key with its default, as it is typed."""
        return f"{self.name}={format_value(self.default)}"

    @property
    def value(self) -> str:
        """Values that the key takes, in words."""
        limits = [describe_range(RANGES[self.name])] if self.name in RANGES else []
        if self.name in REGISTRIES:
            noun = REGISTRIES[self.name].noun
            return f"the name of a {noun}" if self.name in SLOTS else f"a list of names of a {noun}"
        return ", ".join([KEYS[self.name].kind, *limits])

    @property
    def effect(self) -> str:
        """Effect of the key on the results of a run, and whether `lumen eval` may change it."""
        if self.name == "name":
            return "changes no result; the run directory is called by it instead of by its settings"
        if self.name in NON_RESULT_KEYS and self.name != "seed":
            return "changes no result, so it is no part of the run directory's name"
        part = "changes results, so it is part of the run directory's name"
        is_free = is_evaluation_key(self.name)
        return f"{part}; lumen eval may change it" if is_free else f"{part}; lumen eval cannot change it"

    @property
    def readers(self) -> list[str]:
        """Source files that read the key, or the group that it belongs to."""
        return _find_readers(self.name) or _find_readers(self.name.partition(".")[0])

    @property
    def experiments(self) -> dict[str, Any]:
        """Values of experiments that differ from base.yaml."""
        given = {name: settings[self.name] for name, settings in _read_experiments().items() if self.name in settings}
        values = {name: KEYS[self.name].read(value) for name, value in given.items()}
        return {name: value for name, value in values.items() if value != self.default}


@cache
def read_reference() -> dict[str, KeyReference]:
    """Return the documentation of all keys, in the order of base.yaml."""
    text = (files("experiments") / "base.yaml").read_text(encoding="utf-8")
    lines, root = text.splitlines(), yaml.compose(text, yaml.SafeLoader)
    values = _flatten_plain(read_experiment("base"))
    return {
        key: KeyReference(key, KEYS[key].read(values[key]), _read_comment(lines, node))
        for key, node in _iterate_nodes(root)
    }


def read_groups() -> dict[str, str]:
    """Return the groups of keys, with the first line of the docstring of each."""
    hints = get_type_hints(Config)
    return {name: hint.__doc__.partition("\n")[0] for name, hint in hints.items() if is_dataclass(hint)}


def _iterate_nodes(mapping: yaml.MappingNode, prefix: str = "", line: yaml.Node | None = None) -> Iterator[tuple]:
    """Yield each key with the YAML node whose line has its comment."""
    for key, value in mapping.value:
        name = f"{prefix}{key.value}"
        if isinstance(value, yaml.MappingNode):
            yield from _iterate_nodes(value, f"{name}.", value if value.flow_style else None)
        else:
            yield name, line or value


def _read_comment(lines: list[str], node: yaml.Node) -> str:
    """Return the comment behind a value, and the lines below it that hold comments alone."""
    number, column = node.end_mark.line, node.end_mark.column
    parts = [lines[number][column:].partition("#")[2]]
    for line in lines[number + 1 :]:
        if not line.lstrip().startswith("#"):
            break
        parts.append(line.partition("#")[2])
    return " ".join(part.strip() for part in parts if part.strip())


def _flatten_plain(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return settings by dotted key; `{name: scenes, ...}` of a component is the component's name."""
    settings: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict) and key in SLOTS and not prefix:
            settings |= {key: value["name"]} if "name" in value else {}
        elif isinstance(value, dict):
            settings |= _flatten_plain(value, f"{prefix}{key}.")
        else:
            settings[f"{prefix}{key}"] = value
    return settings


@cache
def _read_experiments() -> dict[str, dict[str, Any]]:
    """Return the settings of all experiments by dotted key."""
    return {name: _flatten_plain(read_experiment(name)) for name in list_experiments()}


@cache
def _sources() -> dict[str, str]:
    """Return the source files of the packages that read the config."""
    root = Path(str(files("lumen")))
    paths = [path for package in READERS for path in sorted((root / package).rglob("*.py"))]
    return {f"lumen/{path.relative_to(root).as_posix()}": path.read_text(encoding="utf-8") for path in paths}


def _find_readers(key: str) -> list[str]:
    pattern = re.compile(rf"\b(config|tree)\.{re.escape(key)}\b(?!\()")
    return [path for path, text in _sources().items() if pattern.search(text)]
