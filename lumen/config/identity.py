"""Identity of a run: which settings name its folder and decide its results."""

import hashlib
import json
import math
import re
from typing import Any

from lumen.config.experiment import dump
from lumen.config.schema import PLACE, SHARES, Config


def name_of(config: Config) -> str:
    """The flags of a run in a fixed order, as a folder name: only what changes the result."""
    flags = {key: value for key, value in config.flags.items() if key not in PLACE}
    return _joined(_together(flags, dump(config)))


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
