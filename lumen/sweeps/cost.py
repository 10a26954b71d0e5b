"""Cost estimate of a table before it starts: FLOPs and disk of each training, counted once for all its rows."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any, TypeVar

from lumen.config.experiment import dump
from lumen.config.identity import result_settings
from lumen.config.schema import MIXING_KEYS, RUN_KEYS, Config
from lumen.core.hashing import hash_json
from lumen.core.registry import tasks
from lumen.runs.cost.estimate import Cost, count_sample_flops, estimate_cost
from lumen.runs.cost.evaluation import RowCost, estimate_evaluation
from lumen.runs.cost.hardware import list_devices
from lumen.runs.cost.report import format_span
from lumen.sweeps.reports.text import format_line
from lumen.sweeps.table import Table

T = TypeVar("T")
HEAD = ["training", "steps", "PFLOP, cached", "checkpoints, GB", "generated images", "PFLOP, generated"]


def format_table_cost(table: Table) -> str:
    """Return a line for each training of a table, their sum, and the time that the sum takes at least, by device."""
    trainings: dict[Path, tuple[str, Config, Config | None]] = {}
    for row, seed in product(table.rows, range(table.seeds)):
        configs = table.trainings(row, seed)
        generating = configs.get(table.generating_run(row))
        for path, config in configs.items():
            trainings.setdefault(path, (row.name, config, generating))
    costs: dict[str, Cost] = {}  # trainings that differ in their images alone cost the same
    sample_flops: dict[str, int] = {}
    lines, totals, sets = [], [0.0, 0.0, 0, 0.0], set()
    for name, config, generating in trainings.values():
        own = _without_images(config)
        cost = _recall(costs, _identity(own), estimate_cost, own)
        images = config.steps * config.batch * config.accumulate * config.devices * config.nodes
        generated = 0 if _image_set(config) in sets else _count_generated(config, cost.images) * max(1, cost.views)
        sets.add(_image_set(config))
        flops = 0
        if generated:
            row = "vae" if config.task.get("row") == "vae" else "test"
            flops = generated * _recall(sample_flops, _identity(generating) + row, count_sample_flops, generating, row)
        numbers = images * cost.cached / 1e15, (config.keep + 1) * cost.checkpoint / 1e9, generated, flops / 1e15
        totals = [total + number for total, number in zip(totals, numbers, strict=True)]
        lines.append([f"{name}: {config.task['name']}, seed {config.seed}", f"{config.steps:,}", *_format(numbers)])
    lines.append([f"{len(trainings)} trainings", "", *_format(totals)])
    text = "\n".join(map(format_line, [HEAD, ["---"] * len(HEAD), *lines]))
    evaluations = _format_evaluations([_without_images(config) for _, config, _ in trainings.values()])
    return "\n".join([text, "", *evaluations, *_format_times(config.accelerator, cost.precision, totals[0], totals[3])])


def _recall(memory: dict[str, T], key: str, function: Callable[..., T], *arguments: Any) -> T:
    """Return the value of a function, which is called once for each key."""
    if key not in memory:
        memory[key] = function(*arguments)
    return memory[key]


def _format(numbers: Sequence[float]) -> list[str]:
    return [f"{numbers[0]:.3g}", f"{numbers[1]:.3g}", f"{numbers[2]:,}", f"{numbers[3]:.3g}"]


def _format_times(accelerator: str, precision: str, training: float, generating: float) -> list[str]:
    """Return a line for each device: the least time for these PFLOP of training, and of generating images."""
    lines = []
    for device, rate in list_devices(accelerator, precision).items():
        spans = [format_span(pflop * 1e15 / rate) for pflop in (training, generating)]
        images = f" and {spans[1]} of generating images" if generating else ""
        lines.append(f"{device}: at least {spans[0]} of training{images}")
    return lines


def _format_evaluations(configs: Sequence[Config]) -> list[str]:
    """Return a line about the PFLOP of all evaluations; none if nothing is scored."""
    memory: dict[str, list[RowCost]] = {}
    rows: dict[str, RowCost] = {}
    for number, config in enumerate(configs):
        for row in _recall(memory, _identity(config), estimate_evaluation, config):
            rows[f"{row.label} {_protocol(config) if row.is_shared else number}"] = row
    if not rows:
        return []
    _, images, generating, scoring, _ = zip(*rows.values(), strict=True)
    words = f"{sum(generating) / 1e15:.3g} PFLOP to make {sum(images):,} images"
    words += f", {sum(scoring) / 1e15:.3g} to score them" if any(scoring) else ""  # unless no evaluator is known
    return [f"evaluation: {words}; rows that runs share are counted once"]


def _protocol(config: Config) -> str:
    """Return a hash of what decides the reference rows that runs share, as far as a config says it."""
    keys = ("data", "task", "generator", "diffusion", "sampling", "measure", "metrics", "size", "seed")
    tree = dump(config)
    return hash_json([tree[key] for key in keys])


def _identity(config: Config) -> str:
    return hash_json({key: str(value) for key, value in result_settings(dump(config)).items()})


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
