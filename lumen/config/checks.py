"""Checks of a config's values: ranges, and settings that contradict one another."""

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any

from omegaconf import DictConfig, OmegaConf

from lumen.config.components import used_components
from lumen.config.schema import RANGES
from lumen.core.errors import BadPlugin, UnknownName
from lumen.core.registry import Registry, generators, metrics, tasks
from lumen.core.signals import parse_duration

MAX_SECONDS = 10_000 * 86_400  # of stop_after
MAX_FOLDER_LETTERS = 60
FOLDER_NAME = re.compile(rf"(?!\.)[\w.+-]{{1,{MAX_FOLDER_LETTERS}}}(?<!\.)", re.ASCII)
RESERVED_FOLDERS = re.compile(r"default|eval|seed\d+|-.*")


def iterate_problems(
    tree: DictConfig, components: dict[str, dict[str, Any]], chosen_metrics: dict[str, Any]
) -> Iterator[str]:
    """Yield a sentence about each value out of its range, and about samples that a metric lacks.

    Args:
        tree: Settings that belong to no component.
        components: Name and arguments of the component in each slot.
        chosen_metrics: Arguments of each metric by name.
    """
    required = find_requirements(components)
    min_steps = min(read_literal(tasks, components["task"]["name"], "min_steps", 1), required.get("steps", 1))
    if OmegaConf.select(tree, "diffusion.controlnet") is not None:
        min_steps = 0  # it has learnt already
        yield from find_unused_controlnet(components)
    for key, limits in (RANGES | {"steps": replace(RANGES["steps"], low=min_steps)}).items():
        if problem := limits.find_problem(OmegaConf.select(tree, key)):
            yield f"{key} {problem}."
    for key, value in required.items():
        if (current := components[key]["name"] if key in components else OmegaConf.select(tree, key)) != value:
            generator = components["generator"]["name"]
            yield f"{key} cannot be {current} with generator={generator}, which needs {key}={value}; leave {key} out."
    limit, samples = tree.stop_after, tree.measure.samples
    if limit is not None and not 0 < parse_duration(limit) <= MAX_SECONDS:
        yield f"stop_after must be a time up to 10000d, such as 3h50m or 90s, not {limit}."
    if problem := find_folder_problem(tree.name):
        yield problem
    yield from find_photo_problems(tree, components["task"]["name"])
    if tree.measure.save_predictions:
        yield from find_unsaved_predictions(components["task"]["name"], chosen_metrics)
    if tree.measure.save_samples:
        yield from find_unsaved_samples(components["task"]["name"], chosen_metrics)
    for name in chosen_metrics:
        if (needed := read_literal(metrics, name, "samples_per_image", 1)) > samples > 0:
            yield (
                f"{name} compares {needed} samples of an image, and measure.samples is {samples}; raise it, or leave "
                f"{name} out of metrics."
            )


def find_requirements(components: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return the settings that the generator requires of a task that trains it; none of other tasks."""
    name = components["task"]["name"]
    with suppress(UnknownName, BadPlugin):
        if "generator" in tasks.needs(str(name)) and not freezes_generator(name):
            return read_literal(generators, components["generator"]["name"], "requires", {})
    return {}


def freezes_generator(task: Any) -> bool:
    """Return whether a task brings its own generator, which it takes as it is."""
    return "generator" in read_literal(tasks, task, "settings", {}) | read_literal(tasks, task, "requires", {})


def find_unused_controlnet(components: dict[str, dict[str, Any]]) -> Iterator[str]:
    """Yield a sentence if the run would not use a published ControlNet."""
    name = used_components(components).get("generator")
    if name is None or "controlnet" not in generators.needs(name):
        user = f"generator '{name}'" if name else f"task '{components['task']['name']}'"
        yield f"diffusion.controlnet is not used by the {user}; leave it out, or choose generator=controlnet."


def find_folder_problem(name: str | None) -> str | None:
    """Return a sentence if a name of a run's folder is unsafe as a path, or may be that of another run's folder.

    LUMEN's own folders of runs are called `default`, or hold a "=". `seed0` and `eval` are folders within a run's.
    """
    if name is None or (FOLDER_NAME.fullmatch(name) and not RESERVED_FOLDERS.fullmatch(name)):
        return None
    return (
        f"name cannot be {name!r}; write up to {MAX_FOLDER_LETTERS} letters, digits, and - + _ . inside, as in "
        "name=mybaseline. The names default, eval and seed0 are taken."
    )


def find_photo_problems(tree: DictConfig, task: Any) -> Iterator[str]:
    """Yield a sentence if photos for validation lack prompts, or if the task makes no images from them."""
    photos, prompts = len(tree.validation_images), len(tree.validation_prompts)
    if photos != prompts:
        yield (
            f"validation_images has {photos} photos, and validation_prompts {prompts} prompts; give each photo one "
            'prompt, as in validation_images=[a.jpg] validation_prompts=["a red house"].'
        )
    elif photos and "images" not in (kind := read_literal(tasks, task, "output_kind", "images")):
        yield f"validation_images: the task '{task}' predicts {kind} and generates no images; leave it out."


def find_unsaved_samples(task: Any, chosen_metrics: dict[str, Any]) -> Iterator[str]:
    """Yield a sentence if an evaluation would generate no images that could be saved."""
    if read_literal(tasks, task, "output_kind", "images") != "images":
        yield f"measure.save_samples: the task '{task}' does not predict images alone; leave it out."
    elif not chosen_metrics:
        yield "measure.save_samples: without metrics no images are generated; name some, as in metrics=[miou,lpips]."


def find_unsaved_predictions(task: Any, chosen_metrics: dict[str, Any]) -> Iterator[str]:
    """Yield a sentence if an evaluation would predict nothing that could be saved."""
    if "boxes" not in read_literal(tasks, task, "output_kind", "images"):
        yield f"measure.save_predictions: 3D boxes are saved, and the task '{task}' predicts none; leave it out."
    elif not chosen_metrics:
        yield "measure.save_predictions: without metrics nothing is predicted; name some, as in metrics=[mds]."


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
