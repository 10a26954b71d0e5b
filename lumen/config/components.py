"""Components that a config uses, and the one that steers its outputs."""

from typing import Any

from lumen.config.schema import DEFAULT_GENERATOR, SLOTS
from lumen.core.registry import conditionings, generators, tasks

FEATURE_CONDITIONING = "neural_layout"  # the conditioning that is named after the backbone whose features it shows


def used_components(components: dict[str, dict[str, Any]]) -> dict[str, str]:
    """Return the names of the components that a run uses, by slot; a Canny run, for one, uses no backbone.

    Args:
        components: Config tree, or the part of it with the component of each slot.
    """
    names = {slot: str(components[slot]["name"]) for slot in SLOTS}
    needs = tasks.needs(names["task"])
    if "generator" in needs:
        needs |= generators.needs(names["generator"])
    if "conditioning" in needs:
        needs |= conditionings.needs(names["conditioning"])
    return {slot: name for slot, name in names.items() if slot in {"data", "task", *needs}}


def steering(tree: dict[str, Any]) -> str:
    """Return the component that steers a run's outputs: "dino" for the neural layout of DINO, "canny" for edges.

    A generator that is not the default one is named too, as in "freestyle of segmap".
    """
    used = used_components(tree)
    name, generator = _layouts(used), used.get("generator", DEFAULT_GENERATOR)
    return name if generator == DEFAULT_GENERATOR else f"{generator} of {name}"


def _layouts(used: dict[str, str]) -> str:
    backbone, conditioning = used.get("backbone"), used.get("conditioning")
    if backbone and conditioning not in (None, FEATURE_CONDITIONING):
        return f"{conditioning} of {backbone}"
    return backbone or conditioning or used["task"]
