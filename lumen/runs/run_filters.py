"""Filters of runs: config keys, and the state, as `key=value` on the command line."""

from contextlib import suppress
from typing import Any, get_args

from lumen.config.components import used_components
from lumen.config.files import read_experiment
from lumen.config.groups import iterate_settings
from lumen.config.keys import KEYS
from lumen.config.lists import read_values
from lumen.config.schema import KEY_ALIASES, LATER_KEYS, SLOTS
from lumen.core.errors import BadConfig, Mistake, UnknownName, short_suggestion, suggestion
from lumen.core.plain_text import iterate_scalars
from lumen.core.registry import Registry, metrics
from lumen.runs.inventory import RunInfo, State

STATES = get_args(State)


def select_runs(runs: list[RunInfo], filters: dict[str, str]) -> list[RunInfo]:
    """Return the runs whose settings have the values of all filters. A list of values stands for any of them.

    Raises:
        UnknownName: There is no such key, or no such state.
    """
    wanted = {_require_key(key): _read_filter(key, text) for key, text in filters.items()}
    return [run for run in runs if all(_matches(run, key, values) for key, values in wanted.items())]


def _require_key(key: str) -> str:
    """Return a key of runs by its full name: that of a component for a slot.

    Raises:
        UnknownName: There is none.
    """
    key = KEY_ALIASES.get(key, key)
    slot, _, argument = key.partition(".")
    if key in SLOTS:
        return f"{key}.name"
    if key in KEYS or key in ("state", "experiment") or argument in _list_arguments(SLOTS.get(slot)):
        return key
    name, _, argument = argument.partition(".")
    if slot == "metrics" and name in metrics.names() and argument in metrics.arguments(name):
        return key
    raise UnknownName(f"runs have no '{key}'; {short_suggestion(key, ['state', *KEYS], 'lumen help keys')}")


def _list_arguments(registry: Registry | None) -> set[str]:
    """Return the arguments of all components of a registry."""
    arguments: set[str] = set()
    for name in registry.names() if registry else []:
        with suppress(Mistake):
            arguments |= registry.arguments(name).keys()
    return arguments


def _read_filter(key: str, text: str) -> list[str]:
    try:
        values = read_values(text)
    except ValueError:
        raise BadConfig(f"{key} cannot be {text!r}; write a value, or several as in {key}=a,b.") from None
    if key == "state" and (unknown := next((value for value in values if value not in STATES), None)):
        raise UnknownName(f"no run is '{unknown}'; {suggestion(unknown, STATES)}")
    return values


def _matches(run: RunInfo, key: str, values: list[str]) -> bool:
    """Return whether a run has one of the values; a key that holds a list must have all of them."""
    if key == "state":
        return run.state in values
    if not run.settings or not _uses(run, key):
        return False
    setting = run.settings.get(key, _default(run, key))
    if isinstance(setting, list):
        return all(any(_equals(item, value) for item in setting) for value in values)
    return any(_equals(setting, value) for value in values)


def _uses(run: RunInfo, key: str) -> bool:
    """Return whether a run uses the component that a key belongs to; a Canny run, for one, uses no backbone."""
    slot = key.partition(".")[0]
    if slot not in SLOTS:
        return True
    components = {name: {"name": run.settings.get(f"{name}.name", LATER_KEYS.get(f"{name}.name"))} for name in SLOTS}
    with suppress(Mistake):  # a plug-in that is not installed here
        return slot in used_components(components)
    return True


def _default(run: RunInfo, key: str) -> Any:
    """Return the default of a key that an older config lacks; None if it has none."""
    if key in LATER_KEYS:
        return LATER_KEYS[key]
    if key in KEYS:
        return KEYS[key].read(dict(iterate_settings(read_experiment("base"))).get(key))
    slot, _, name = key.partition(".")
    with suppress(Mistake, KeyError):
        return SLOTS[slot].arguments(run.settings[f"{slot}.name"])[name].default
    return None


def _equals(setting: Any, text: str) -> bool:
    """Return whether text stands for the value of a setting, whatever its type."""
    candidates = [*iterate_scalars(text), text]
    return any(value == setting and isinstance(value, bool) == isinstance(setting, bool) for value in candidates)
