"""Identity of a run: the settings that name its directory and decide its results.

All functions take config trees: the nested dicts that `experiment.dump` returns and a run's config.yaml holds.
"""

import hashlib
import json
import math
import os
import re
from pathlib import PurePath
from typing import Any

from lumen.config.schema import (
    BATCH_SPLIT_KEYS,
    EVALUATION_KEYS,
    LATER_KEYS,
    NESTED_SLOTS,
    NON_RESULT_KEYS,
    RUN_KEYS,
    SLOTS,
    split_key,
)  # fmt: skip
from lumen.core.registry import Registry, metrics

RECORD_KEYS = ("flags.", "defaults.")  # of where a config comes from


def run_name(tree: dict[str, Any]) -> str:
    """Return the name of a run among those of its experiment: its sorted overrides, as far as they change results."""
    flags = {key: _short(key, value) for key, value in tree["flags"].items() if key not in NON_RESULT_KEYS}
    return format_overrides(_without_later_defaults(_join_batch_split(flags, tree)))


def config_digest(tree: dict[str, Any]) -> str:
    """Return 16 hex digits that change with every setting that changes results.

    Arguments that a component gains in a later release change it. A run directory is therefore identified by the digest
    of its own config.yaml.
    """
    return hashlib.sha256(json.dumps(result_settings(tree), sort_keys=True).encode()).hexdigest()[:16]


def result_settings(tree: dict[str, Any]) -> dict[str, Any]:
    """Return the settings that change results, by dotted key."""
    settings = flatten(tree)
    settings = {
        key: _short(key, value)
        for key, value in settings.items()
        if key not in NON_RESULT_KEYS and not key.startswith(RECORD_KEYS)
    }
    return _without_later_defaults(_join_batch_split(settings, tree))


def differences(before: dict[str, Any], now: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return the settings that change results and differ between two config trees, with both values.

    A key that an older config lacks counts as its default, be it a component or an argument of one. A tuple counts as
    the list that YAML makes of it.
    """
    old, new = (LATER_KEYS | result_settings(_with_argument_defaults(tree)) for tree in (before, now))
    keys = sorted(old.keys() | new.keys())
    return {key: (old.get(key), new.get(key)) for key in keys if _as_yaml(old.get(key)) != _as_yaml(new.get(key))}


def _short(key: str, value: Any) -> Any:
    """Return a hash of experiment, flags and seed in place of the path of a run, wherever its folder lies."""
    if key not in RUN_KEYS or value is None:
        return value
    return hashlib.sha256("/".join(PurePath(os.path.abspath(value)).parts[-3:]).encode()).hexdigest()[:8]


def _as_yaml(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def format_overrides(overrides: dict[str, Any]) -> str:
    """Return overrides as the name of a directory, sorted by key; `default` if there are none."""
    return sanitize(",".join(f"{key}={value}" for key, value in sorted(overrides.items()))) or "default"


def is_evaluation_key(key: str) -> bool:
    """Return whether a further evaluation of a trained run may change a key."""
    return not {key.partition(".")[0], split_key(key)[0]}.isdisjoint(EVALUATION_KEYS)


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the values of a nested dict by dotted key. An empty dict has no key."""
    settings: dict[str, Any] = {}
    for key, value in tree.items():
        settings |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return settings


def sanitize(text: str) -> str:
    """Return text as the name of one file: without separators or leading dots, at most 120 characters long."""
    name = re.sub(r"[^\w.,=+-]", "_", text).lstrip(".")
    if name == text and len(name) <= 120:
        return name
    return f"{name[:100]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def _without_later_defaults(settings: dict[str, Any]) -> dict[str, Any]:
    """Drop keys of LATER_KEYS at their defaults; `task=NAME` is short for `task.name=NAME`."""

    def is_default(key: str, value: Any) -> bool:
        return any(name in LATER_KEYS and LATER_KEYS[name] == value for name in (key, f"{key}.name"))

    return {key: value for key, value in settings.items() if not is_default(key, value)}


def _join_batch_split(settings: dict[str, Any], tree: dict[str, Any]) -> dict[str, Any]:
    """Replace the keys that divide the images of an elastic run's step by their product."""
    if not tree.get("elastic"):
        return settings
    others = {key: value for key, value in settings.items() if key not in BATCH_SPLIT_KEYS}
    return others | {"together": math.prod(tree[key] for key in BATCH_SPLIT_KEYS)}


def _with_argument_defaults(tree: dict[str, Any]) -> dict[str, Any]:
    """Fill in the arguments that the components of an older config tree lack."""
    components = {slot: {"name": LATER_KEYS.get(f"{slot}.name")} | tree.get(slot, {}) for slot in SLOTS}
    filled = {slot: _defaults(SLOTS[slot], component["name"]) | component for slot, component in components.items()}
    for slot, registry in NESTED_SLOTS.items():
        parent, _, argument = slot.partition(".")
        if inner := filled[parent].get(argument):
            filled[parent] |= {argument: _defaults(registry, inner["name"]) | inner}
    chosen = {name: _defaults(metrics, name) | arguments for name, arguments in tree.get("metrics", {}).items()}
    return tree | filled | {"metrics": chosen}


def _defaults(registry: Registry, name: str) -> dict[str, Any]:
    """Return the defaults of a component's arguments, as YAML holds them."""
    arguments = {key: argument.default for key, argument in registry.arguments(name).items() if not argument.required}
    return {key: list(value) if isinstance(value, tuple) else value for key, value in arguments.items()}
