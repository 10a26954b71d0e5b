"""Grids: tables without a YAML file, whose rows are all combinations of the lists on a command line."""

import math
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from lumen.config.experiment import dump, load, reload
from lumen.config.keys import KEYS
from lumen.config.lists import format_values, holds_lists, read_values
from lumen.config.schema import KEY_ALIASES, NON_RESULT_KEYS, SLOTS
from lumen.core.errors import BadConfig
from lumen.core.registry import metrics

EVAL_PREFIX = "eval."  # of an override under which every row is evaluated again
# Keys by which an evaluation differs: rows that differ in one of them would be trained, and never compared.
PROTOCOL_KEYS = {"data", "measure", "metrics", "precision", "sampling", "size", "task"}
COMPARED_KEYS = {"data.flip", "sampling.images"}  # among them
TRAINED_KEYS = {"size", "task"}  # among them: no evaluation changes them
MAX_ROWS = 1000
MAX_NAME_LETTERS = 40


@dataclass(frozen=True)
class Grid:
    """Rows of a table that lists of values make.

    Attributes:
        axes: Values of each key that has several, by key.
        rows: Fields of each row by its name, as a table's YAML file has them.
        others: Overrides of all rows.
        typed: All overrides, each list in its shortest form.
    """

    axes: dict[str, list[str]]
    rows: dict[str, dict[str, Any]]
    others: list[str]
    typed: list[str]

    @property
    def name(self) -> str:
        """Keys of the axes, without the groups that they are in, whatever their order."""
        return "-".join(sorted(key.rpartition(".")[2] for key in self.axes))[:MAX_NAME_LETTERS] or "seeds"

    @property
    def title(self) -> str:
        """Heading of the table."""
        return f"Grid of {' and '.join(self.axes)}" if self.axes else "One config, several seeds"


def read_grid(experiment: str, overrides: Sequence[str], seeds: int) -> Grid:
    """Return the grid of all overrides that are lists, where their keys take a single value.

    A key that takes a list itself has its rows in a list of lists, as in key=[[a],[b,c]].

    Raises:
        BadConfig: There is nothing to compare, or rows that cannot be compared.
    """
    settings = dict(override.partition("=")[::2] for override in overrides)
    values = {key: _read_axis(experiment, key, text, settings) for key, text in settings.items()}
    axes = {key: choices for key, choices in values.items() if len(choices) > 1}
    _verify_axes(axes)
    if not axes and seeds == 1:
        config = load(experiment, [override for override in overrides if not override.startswith(EVAL_PREFIX)])
        evaluated = [override for override in overrides if override.startswith(EVAL_PREFIX)]
        reload(dump(config), [override.removeprefix(EVAL_PREFIX) for override in evaluated])  # a misspelt key, too
        raise BadConfig(
            f"{experiment} is an experiment, and nothing is compared: write a list, as in backbone=dino,clip, or "
            "seeds=3; or name a table."
        )
    rows = {}
    for choice in product(*axes.values()):
        rows[", ".join(choice) or Path(experiment).stem] = _build_fields(zip(axes, choice, strict=True))
    others = [f"{key}={choices[0]}" for key, choices in values.items() if key not in axes]
    typed = [
        f"{key}={settings[key] if choices == [settings[key]] else format_values(choices)}"
        for key, choices in values.items()
    ]
    return Grid(axes, rows, others, typed)


def _read_axis(experiment: str, key: str, text: str, settings: dict[str, str]) -> list[str]:
    """Return the values of an override, one for each row; a single one if it is no list of rows.

    Raises:
        BadConfig: It is a list that cannot be read.
    """
    name = KEY_ALIASES.get(key.removeprefix(EVAL_PREFIX), key.removeprefix(EVAL_PREFIX))
    if key == "seed" and {",", "["} & set(text):
        raise BadConfig(f"seed cannot be {text!r}; write seeds=3 for the seeds 0, 1 and 2.")
    takes_lists = _takes_lists(experiment, name, settings)
    is_list = holds_lists(text) if takes_lists else "," in text or text.startswith("[")
    if takes_lists is None or key in NON_RESULT_KEYS or text.startswith("{") or not is_list:
        return [text]
    try:
        return read_values(text)
    except ValueError:
        raise BadConfig(
            f"{key} cannot be {text!r}; write the values of the rows, as in {key}=a,b, and a value that holds a comma "
            "in quotes."
        ) from None


def _takes_lists(experiment: str, key: str, settings: dict[str, str]) -> bool | None:
    """Return whether the value of a key may be a list; None if there is no such key."""
    if key in KEYS:
        return KEYS[key].has_lists
    slot, _, argument = key.partition(".")
    if slot == "metrics":
        registry, (name, _, argument) = metrics, argument.partition(".")
        names = [name]
    elif slot in SLOTS:
        registry = SLOTS[slot]
        chosen = settings.get(slot, settings.get(f"{slot}.name"))
        tree = None if chosen else dump(load(experiment, complete=False))
        names = read_values(chosen) if chosen else [tree[slot]["name"]]
    else:
        return None
    kinds = [registry.arguments(name).get(argument) for name in names if name in registry.names()]
    return any(kind.has_lists for kind in kinds if kind is not None)


def _verify_axes(axes: dict[str, list[str]]) -> None:
    """Verify that rows can be compared, and that there are not too many.

    Raises:
        BadConfig: It is not so.
    """
    for key, values in axes.items():
        if repeated := next((value for value in values if values.count(value) > 1), None):
            raise BadConfig(f"{key} has {repeated} twice; leave one out.")
        if key.partition(".")[0] in PROTOCOL_KEYS and key not in COMPARED_KEYS:
            again = f"{EVAL_PREFIX}{key}={','.join(values)} to evaluate each run in several ways, or "
            raise BadConfig(
                f"rows that differ in {key} are evaluated under different protocols, so no table compares them; write "
                f"{'' if key in TRAINED_KEYS else again}a single value, in quotes if it holds a comma."
            )
    if (count := math.prod(map(len, axes.values()))) > MAX_ROWS:
        raise BadConfig(f"the lists make {count:,} rows, and a table has at most {MAX_ROWS:,}; shorten them.")


def _build_fields(settings: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return the flag of a row and the overrides of its evaluation."""
    words: dict[str, list[str]] = {"flag": [], "eval": []}
    for key, value in settings:
        field = "eval" if key.startswith(EVAL_PREFIX) else "flag"
        words[field].append(f"{key.removeprefix(EVAL_PREFIX)}={value}")
    return {field: shlex.join(overrides) for field, overrides in words.items() if overrides}
