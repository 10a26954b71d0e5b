"""Cost estimate of a table before it starts: FLOPs and disk of each training, counted once for all its rows."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path

from lumen.config.experiment import dump
from lumen.config.identity import result_settings
from lumen.config.schema import MIXING_KEYS, RUN_KEYS, Config
from lumen.core.hashing import hash_json
from lumen.core.registry import tasks
from lumen.runs.cost.estimate import Cost, estimate_cost
from lumen.sweeps.reports.text import format_line
from lumen.sweeps.table import Table

HEAD = ["training", "steps", "PFLOP, cached", "checkpoints, GB", "generated images"]


def format_table_cost(table: Table) -> str:
    """Return a line for each training of a table, and their sum."""
    trainings: dict[Path, tuple[str, Config]] = {}
    for row, seed in product(table.rows, range(table.seeds)):
        for path, config in table.trainings(row, seed).items():
            trainings.setdefault(path, (row.name, config))
    costs: dict[str, Cost] = {}  # trainings that differ in their images alone cost the same
    lines, totals, sets = [], [0.0, 0.0, 0], set()
    for name, config in trainings.values():
        own = _without_images(config)
        key = hash_json({key: str(value) for key, value in result_settings(dump(own)).items()})
        cost = costs[key] if key in costs else costs.setdefault(key, estimate_cost(own))
        images = config.steps * config.batch * config.accumulate * config.devices * config.nodes
        generated = 0 if _image_set(config) in sets else _count_generated(config, cost.images) * max(1, cost.views)
        sets.add(_image_set(config))
        numbers = images * cost.cached / 1e15, (config.keep + 1) * cost.checkpoint / 1e9, generated
        totals = [total + number for total, number in zip(totals, numbers, strict=True)]
        lines.append([f"{name}: {config.task['name']}, seed {config.seed}", f"{config.steps:,}", *_format(numbers)])
    lines.append([f"{len(trainings)} trainings", "", *_format(totals)])
    return "\n".join(map(format_line, [HEAD, ["---"] * len(HEAD), *lines]))


def _format(numbers: Sequence[float]) -> list[str]:
    return [f"{numbers[0]:.3g}", f"{numbers[1]:.3g}", f"{numbers[2]:,}"]


def _without_images(config: Config) -> Config:
    """Return the config of the same training without generated images, whose run need not exist."""
    accepted = tasks.arguments(config.task["name"])
    names = {key.removeprefix("task.") for key in (*RUN_KEYS, *MIXING_KEYS)} & accepted.keys()
    return replace(config, task=config.task | {name: accepted[name].default for name in names})


def _count_generated(config: Config, num_images: int | None) -> int:
    """Return the number of images that are generated for a training, if the training images can be counted."""
    task = config.task
    if not task.get("synthetic"):
        return 0
    return (task.get("images") or num_images or 0) * max(1, len(task["domains"] or ())) * task["copies"]


def _image_set(config: Config) -> str:
    """Return a hash of what decides which images are generated; tasks share them, and seeds if nothing is cropped."""
    arguments = ("synthetic", "domains", "copies", "images")
    is_round_trip = config.task.get("row") == "vae"
    return hash_json(
        [is_round_trip, config.seed if config.views else None, *(str(config.task.get(name)) for name in arguments)]
    )
