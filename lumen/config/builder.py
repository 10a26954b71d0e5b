"""Builder of a config: layers of settings that override one another, validated together."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lumen.config.files import list_memory_presets, read_memory_preset
from lumen.config.schema import DEFAULT_TASK, FRACTION_KEYS, NONNEGATIVE_KEYS, POSITIVE_KEYS, SLOTS, Config
from lumen.core.errors import BadConfig, BadPlugin, UnknownName, suggestion
from lumen.core.registry import Registry, metrics, tasks
from lumen.core.signals import parse_duration


class ConfigBuilder:
    """Config under construction.

    Args:
        base: Settings of base.yaml.

    Attributes:
        errors: Sentences about all mistakes so far; `build` reports them together.
        components: Name and arguments of the component in each slot.
        metrics: Arguments of each metric by name.
        defaults: Arguments that the experiment gives to components by slot, unless something else sets them.
        tree: All other settings, typed by the schema.
    """

    def __init__(self, base: dict[str, Any]):
        self.errors: list[str] = []
        self.components = {slot: {"name": base[slot]} for slot in SLOTS}
        self.metrics: dict[str, dict[str, Any]] = {}
        self.defaults: dict[str, dict[str, Any]] = {}
        settings = {key: value for key, value in base.items() if key not in (*SLOTS, "metrics")}
        self.tree = OmegaConf.merge(OmegaConf.structured(Config), settings)
        self._keys = [key for key, _ in iterate_settings(base)]
        self._task_has_metrics = False  # whether the layer that names the task names metrics too
        self.apply("base.yaml", [("metrics", base["metrics"])])

    def apply(self, layer: str, settings: Iterable[tuple[str, Any]]) -> None:
        """Apply a layer of settings. A component that is replaced loses the arguments of the one before."""
        settings = [(f"{key}.name" if key in SLOTS else key, value) for key, value in settings]
        keys = {key for key, _ in settings}
        names = keys & {f"{slot}.name" for slot in SLOTS}
        if "task.name" in keys:
            self._task_has_metrics = any(key.partition(".")[0] == "metrics" for key in keys)
        # Names come first, since they drop arguments.
        for key, value in sorted(settings, key=lambda pair: pair[0] not in names and pair[0] != "metrics"):
            slot, _, argument = key.partition(".")
            if slot == "defaults":
                target, _, name = argument.partition(".")
                self.defaults.setdefault(target, {})[name] = value
            elif slot == "metrics":
                self._set_metrics(layer, argument, value)
            elif slot not in SLOTS:
                self._set(layer, key, value)
            elif argument == "name" and value != self.components[slot]["name"]:
                self.components[slot] = {"name": value}
            else:
                self.components[slot][argument] = value

    def build(self, overrides: Sequence[str], complete: bool) -> Config:
        """Return the typed config with the overrides of the command line.

        Args:
            complete: Whether a required argument that nothing sets is an error.

        Raises:
            BadConfig: All mistakes of all layers.
        """
        flags = dict(self._parse(overrides))
        self._use_metrics_of_task(flags)
        self.apply("the command line", flags.items())
        for slot, registry in SLOTS.items():
            self._complete(slot, self.components[slot].get("name"), self.components[slot], registry, complete)
        for name, arguments in self.metrics.items():
            self._complete("metrics", name, arguments, metrics, complete)
        self._select_anchors("measure.anchors" in flags)
        self._check_ranges()
        if not self.errors and self.tree.memory is not None:
            self._fit_memory(self.tree.memory, flags)
        if self.errors:
            raise BadConfig("\n".join(self.errors))
        records = {"metrics": self.metrics, "defaults": self.defaults, "flags": flags}
        return OmegaConf.to_object(OmegaConf.merge(self.tree, self.components, records))

    def _parse(self, overrides: Sequence[str]) -> Iterator[tuple[str, Any]]:
        """Yield overrides as settings, their values read as YAML reads them."""
        for override in overrides:
            key, equals, text = override.partition("=")
            if not equals or not all(part.isidentifier() for part in key.split(".")):
                self.errors.append(f"'{override}' is no override; write key=value, as in backbone=clip or lr=1e-5.")
                continue
            value = OmegaConf.to_container(OmegaConf.from_dotlist([f"value={text}"]), resolve=False)["value"]
            yield from iterate_settings({key: value})

    def _set(self, layer: str, key: str, value: Any) -> None:
        if key not in self._keys:
            self.errors.append(f"{layer}: there is no key '{key}'; {suggestion(key, self._keys)}")
            return
        if "${" in str(value):
            self.errors.append(f"{layer}: {key} cannot be {value!r}: values are not interpolated; write the value out.")
            return
        try:
            OmegaConf.update(self.tree, key, value)
        except OmegaConfBaseException as error:
            reason = str(error).partition("\n")[0].rstrip(".")
            self.errors.append(f"{layer}: {key} cannot be {value!r}: {reason}.")

    def _set_metrics(self, layer: str, path: str, value: Any) -> None:
        """Set `metrics`, a list of names that keep their arguments, or `metrics.NAME.ARGUMENT`."""
        name, _, argument = path.partition(".")
        if argument:
            self.metrics.setdefault(name, {})[argument] = value
        elif name and value in ({}, None):
            self.metrics.setdefault(name, {})
        elif name:
            self.errors.append(
                f"{layer}: metrics.{name} takes no value; write metrics=[{name}], or metrics.{name}.ARGUMENT=VALUE."
            )
        elif isinstance(value, str):
            self.metrics = {value: self.metrics.get(value, {})}
        elif isinstance(value, list | dict) and all(isinstance(item, str) for item in value):
            self.metrics = {item: self.metrics.get(item, {}) for item in value}
        else:
            self.errors.append(f"{layer}: metrics cannot be {value!r}; write names, as in metrics=[miou,lpips].")

    def _use_metrics_of_task(self, flags: dict[str, Any]) -> None:
        """Replace the experiment's metrics by the task's own, unless the task is the default or comes with metrics."""
        name = flags.get("task", flags.get("task.name", self.components["task"]["name"]))
        by_flag = {"task", "task.name"} & flags.keys()
        if name == DEFAULT_TASK or (self._task_has_metrics and not by_flag):
            return
        with suppress(UnknownName, BadPlugin):  # reported where the task's arguments are completed
            if chosen := tasks.literal(str(name), "metrics", ()):
                self.metrics = {metric: {} for metric in chosen}

    def _complete(self, slot: str, name: Any, arguments: dict[str, Any], registry: Registry, complete: bool) -> None:
        """Fill in the defaults of a component's arguments, and check its name and arguments."""
        try:
            accepted = registry.arguments(str(name))
        except (UnknownName, BadPlugin) as error:
            self.errors.append(str(error))
            return
        for key, value in self.defaults.get(slot, {}).items():
            if key in accepted:
                arguments.setdefault(key, value)
        title, prefix = f"{registry.noun} '{name}'", slot if slot in SLOTS else f"{slot}.{name}"
        for key, value in arguments.items():
            if key == "name" and slot in SLOTS:
                continue
            if key not in accepted:
                self.errors.append(f"{title} has no argument '{prefix}.{key}'; {suggestion(key, accepted)}")
            elif not accepted[key].accepts(value):
                self.errors.append(f"{prefix}.{key} of {title} must be {accepted[key].kind}, not {value!r}.")
        for key, argument in accepted.items():
            if complete and argument.required and key not in arguments:
                self.errors.append(f"{title} needs {prefix}.{key}=..., which nothing sets.")
            arguments.setdefault(key, argument.default)

    def _select_anchors(self, by_flag: bool) -> None:
        """Keep the reference rows that the task has; one that an override names must exist."""
        name = self.components["task"]["name"]
        try:
            rows = tasks.literal(str(name), "reference_rows", {})
        except (UnknownName, BadPlugin):  # reported where the task's arguments are completed
            return
        if by_flag or name == DEFAULT_TASK:
            for row in self.tree.measure.anchors:
                if row not in rows:
                    self.errors.append(f"measure.anchors: task '{name}' has no row '{row}'; {suggestion(row, rows)}")
        else:
            shared = [row for row in self.tree.measure.anchors if row in rows]
            # An experiment names the rows of the task that it was written for; another task has all of its own.
            self.tree.measure.anchors = shared or (list(rows) if self.tree.measure.anchors else [])

    def _check_ranges(self) -> None:
        for key in sorted(POSITIVE_KEYS):
            self._check(key, lambda value: value > 0, "must be more than 0")
        for key in sorted(NONNEGATIVE_KEYS):
            self._check(key, lambda value: value >= 0, "must be 0 or more")
        for key in sorted(FRACTION_KEYS):
            self._check(key, lambda value: 0 <= value <= 1, "must be between 0 and 1")
        self._check("stop_after", lambda v: v is None or parse_duration(v), "must be a time such as 3h50m or 90s")

    def _check(self, key: str, is_valid: Callable[[Any], Any], rule: str) -> None:
        value = OmegaConf.select(self.tree, key)
        if not is_valid(value):
            self.errors.append(f"{key} {rule}, not {value}.")

    def _fit_memory(self, memory: int, flags: dict[str, Any]) -> None:
        """Divide the images of a step into micro-batches that fit into GPU memory; their number per step stays."""
        sizes = list_memory_presets()
        if memory not in sizes:
            self.errors.append(
                f"memory cannot be {memory}: available are {', '.join(map(str, sizes))} GB; take the next smaller one, "
                f"or create experiments/memory/{memory}.yaml."
            )
            return
        preset = dict(iterate_settings(read_memory_preset(memory)))
        images, max_batch = self.tree.batch * self.tree.accumulate, preset.pop("batch")
        batch = max(n for n in range(1, max_batch + 1) if images % n == 0)
        settings = {"batch": batch, "accumulate": images // batch}
        settings |= {key: value for key, value in preset.items() if key not in flags}
        self.apply(f"memory/{memory}.yaml", settings.items())


def iterate_settings(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the settings of a nested dict by dotted key; an empty dict is a value."""
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from iterate_settings(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
