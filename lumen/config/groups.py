"""Groups of settings: nested dicts as dotted keys, and back."""

import re
from collections.abc import Iterator
from typing import Any

from omegaconf import DictConfig, OmegaConf

from lumen.config.keys import KEYS


def iterate_settings(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the settings of a nested dict by dotted key; an empty dict is a value."""
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from iterate_settings(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def is_group(key: str) -> bool:
    """Return whether a key holds other keys, as sampling, backbone, metrics and metrics.lpips do."""
    return key == "metrics" or re.fullmatch(r"metrics\.\w+", key) or any(name.startswith(f"{key}.") for name in KEYS)


def nest(settings: dict[str, Any]) -> DictConfig:
    """Return settings by dotted key as a tree."""
    tree = OmegaConf.create()
    for key, value in settings.items():
        OmegaConf.update(tree, key, value, force_add=True)
    return tree
