"""Checks of a config's values: ranges, and settings that contradict one another."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any

from omegaconf import DictConfig, OmegaConf

from lumen.config.components import used_components
from lumen.config.schema import RANGES
from lumen.core.errors import BadPlugin, UnknownName
from lumen.core.registry import Registry, metrics, tasks
from lumen.core.signals import parse_duration

MAX_SECONDS = 10_000 * 86_400  # of stop_after


def iterate_problems(
    tree: DictConfig, components: dict[str, dict[str, Any]], chosen_metrics: dict[str, Any]
) -> Iterator[str]:
    """Yield a sentence about each value out of its range, and about samples that a metric lacks.

    Args:
        tree: Settings that belong to no component.
        components: Name and arguments of the component in each slot.
        chosen_metrics: Arguments of each metric by name.
    """
    min_steps = read_literal(tasks, components["task"]["name"], "min_steps", 1)
    for key, limits in (RANGES | {"steps": replace(RANGES["steps"], low=min_steps)}).items():
        if problem := limits.find_problem(OmegaConf.select(tree, key)):
            yield f"{key} {problem}."
    limit, samples = tree.stop_after, tree.measure.samples
    if limit is not None and not 0 < parse_duration(limit) <= MAX_SECONDS:
        yield f"stop_after must be a time up to 10000d, such as 3h50m or 90s, not {limit}."
    for name in chosen_metrics:
        if (needed := read_literal(metrics, name, "samples_per_image", 1)) > samples > 0:
            yield (
                f"{name} compares {needed} samples of an image, and measure.samples is {samples}; raise it, or leave "
                f"{name} out of metrics."
            )


def find_unused_backbone(components: dict[str, dict[str, Any]]) -> str | None:
    """Return a sentence if the run would not use its backbone."""
    used = used_components(components)
    if "backbone" in used:
        return None
    user = f"conditioning '{used['conditioning']}'" if "conditioning" in used else f"task '{used['task']}'"
    name = components["backbone"]["name"]
    return f"backbone={name} has no effect, because {user} uses no backbone; leave it out."


def read_literal(registry: Registry, name: Any, attribute: str, default: Any) -> Any:
    """Return a class attribute of a component; of one that cannot be read, which is another error, the default."""
    with suppress(UnknownName, BadPlugin):
        return registry.literal(str(name), attribute, default)
    return default
