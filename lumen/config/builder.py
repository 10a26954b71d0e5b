"""Builder of a config: layers of settings that override one another, validated together."""

import json
import reprlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException, ValidationError

from lumen.config.checks import find_unused_backbone, freezes_generator, iterate_problems, read_literal
from lumen.config.files import list_memory_presets, read_memory_preset
from lumen.config.groups import is_group, iterate_settings, nest
from lumen.config.keys import KEYS, NAME_KEYS
from lumen.config.schema import ALL_SLOTS, DEFAULT_TASK, KEY_ALIASES, NESTED_SLOTS, SLOTS, Config, split_key
from lumen.core.arguments import ANYTHING, Argument
from lumen.core.errors import BadConfig, BadPlugin, UnknownName, short_suggestion, suggestion
from lumen.core.paths import user_path
from lumen.core.plain_text import PlainText, find_refusal, parse_plain
from lumen.core.registry import Registry, generators, metrics, tasks


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
        self.components = {slot: {"name": str(base[slot]) if slot in SLOTS else None} for slot in ALL_SLOTS}
        self.metrics: dict[str, dict[str, Any]] = {}
        self.defaults: dict[str, dict[str, Any]] = {}
        settings = iterate_settings({key: value for key, value in base.items() if key not in (*SLOTS, "metrics")})
        self._base = {key: KEYS[key].read(value) for key, value in settings}
        self.tree = OmegaConf.merge(OmegaConf.structured(Config), nest(self._base))
        self._given: set[str] = set()  # keys that a layer above base.yaml sets
        self._task_has_metrics = False  # whether the layer that names the task names metrics too
        self.apply("base.yaml", [("metrics", base["metrics"])])

    def apply(self, layer: str, settings: Iterable[tuple[str, Any]]) -> dict[str, Any]:
        """Apply a layer of settings, and return what was read. A component that is replaced loses its arguments."""
        settings, values = dict(settings), {}
        given = list(settings)
        settings = self._settings_of_components(settings) | settings
        if settings.keys() & {"task", "task.name"}:
            self._task_has_metrics = any(key.partition(".")[0] == "metrics" for key in settings)
        # Names come first, since they drop arguments and decide the types of others.
        names = NAME_KEYS | ALL_SLOTS.keys() | {"metrics"}
        for key in sorted(settings, key=lambda key: (key not in names, split_key(key)[0] in NESTED_SLOTS)):
            is_default = key.startswith("defaults.")  # of a component that is known later
            values[key] = (
                settings[key] if is_default else self._find_type(KEY_ALIASES.get(key, key)).read(settings[key])
            )
            self._apply(layer, f"{key}.name" if key in ALL_SLOTS else KEY_ALIASES.get(key, key), values[key])
        return {key: values[key] for key in given}

    def _apply(self, layer: str, key: str, value: Any) -> None:
        slot, argument = split_key(key)
        if slot == "defaults":
            if refusal := find_refusal(value, ""):
                self.errors.append(f"{layer}: {key} cannot be {value!r}: {refusal}.")
            target, _, name = argument.partition(".")
            self.defaults.setdefault(target, {})[name] = value
        elif slot == "metrics":
            self._set_metrics(layer, argument, value)
        elif slot not in ALL_SLOTS:
            self._set(layer, key, value)
        elif argument == "name" and value != self.components[slot]["name"]:
            self.components |= {inner: {"name": None} for inner in NESTED_SLOTS if inner.startswith(f"{slot}.")}
            self.components[slot] = {"name": value}
        else:
            self.components[slot][argument] = value

    def _find_type(self, key: str) -> Argument:
        """Return the type of a key; the component that it belongs to has its name by now."""
        slot, argument = split_key(key)
        registry, name = ALL_SLOTS.get(slot), self.components.get(slot, {}).get("name")
        if slot == "metrics":
            registry, (name, _, argument) = metrics, argument.partition(".")
        if key in KEYS or registry is None:
            return KEYS.get(key, ANYTHING)
        with suppress(UnknownName, BadPlugin):  # reported where arguments are completed
            return registry.arguments(str(name)).get(argument, ANYTHING)
        return ANYTHING

    def build(self, overrides: Sequence[str], complete: bool) -> Config:
        """Return the typed config with the overrides of the command line.

        Args:
            complete: Whether a required argument that nothing sets is an error.

        Raises:
            BadConfig: All mistakes of all layers.
        """
        flags = dict(self._parse(overrides))
        self._use_metrics_of_task(flags)
        flags = self.apply("the command line", flags.items())
        for slot in NESTED_SLOTS:
            self._nest(slot, complete)
        for slot, registry in SLOTS.items():
            self._complete(slot, self.components[slot].get("name"), self.components[slot], registry, complete)
        for name, arguments in self.metrics.items():
            self._complete("metrics", name, arguments, metrics, complete)
        self._select_anchors("measure.anchors" in flags)
        self.errors += iterate_problems(self.tree, self.components, self.metrics)
        if not self.errors and {"backbone", "backbone.name"} & flags.keys():
            self.errors += filter(None, [find_unused_backbone(self.components)])
        if not self.errors and self.tree.memory is not None:
            self._fit_memory(self.tree.memory, flags)
        if self.errors:
            raise BadConfig("\n".join(self.errors))
        self.tree.runs = str(user_path(self.tree.runs))  # no result depends on it, so the name of the run stays
        records = {"metrics": self.metrics, "defaults": self.defaults, "flags": flags}
        records = json.loads(json.dumps(records))  # defaults hold PlainText, which no YAML writes
        return OmegaConf.to_object(OmegaConf.merge(self.tree, self.components, records))

    def _parse(self, overrides: Sequence[str]) -> Iterator[tuple[str, Any]]:
        """Yield overrides as settings; those of a group may be written together, as in every={log: 1, validate: 5}."""
        for override in overrides:
            key, equals, text = override.partition("=")
            if not equals or not all(part.isidentifier() for part in key.split(".")):
                self.errors.append(f"{override!r} is no override; write key=value, as in backbone=clip or lr=1e-5.")
            elif text.startswith("{") and is_group(key):
                try:
                    yield from iterate_settings({key: parse_plain(text)})
                except ValueError:
                    self.errors.append(f"{key} cannot be {text!r}; write keys and values, as in {{log: 1}}.")
            else:
                yield key, PlainText(text)

    def _set(self, layer: str, key: str, value: Any) -> None:
        if key not in self._base and is_group(key):
            self.errors.append(f"{layer}: {key} is a group of keys, which `lumen help {key}` lists; set one of them.")
            return
        if key not in self._base:
            keys = [*self._base, *SLOTS, "metrics", *self._component_keys()]
            self.errors.append(f"{layer}: there is no key '{key}'; {short_suggestion(key, keys, 'lumen help keys')}")
            return
        if refusal := find_refusal(value, self._base[key]):
            self.errors.append(f"{layer}: {key} cannot be {value!r}: {refusal}.")
            return
        try:
            if KEYS[key].has_lists and not KEYS[key].accepts(value):
                raise ValidationError
            OmegaConf.update(self.tree, key, value)  # which also reads numbers in quotes
            self._given.add(key)
        except OmegaConfBaseException:
            advice = ", as in [a,b]" if KEYS[key].has_lists else ""
            self.errors.append(f"{layer}: {key} cannot be {reprlib.repr(value)}; it must be {KEYS[key].kind}{advice}.")

    def _component_keys(self) -> list[str]:
        """Return the keys of the arguments of the components; of those that cannot be read, none."""
        return [f"{slot}.{argument}" for slot in self.components for argument in self._arguments(slot)]

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
        elif isinstance(value, str) and not {"[", ","} & set(value):
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
        if chosen := read_literal(tasks, name, "metrics", ()):
            arguments = chosen if isinstance(chosen, dict) else {}
            self.metrics = {metric: dict(arguments.get(metric, {})) for metric in chosen}

    def _complete(self, slot: str, name: Any, arguments: dict[str, Any], registry: Registry, complete: bool) -> None:
        """Fill in the defaults of a component's arguments, and check its name and arguments."""
        try:
            accepted = registry.arguments(str(name))
        except (UnknownName, BadPlugin) as error:
            self.errors.append(str(error))
            return
        for key, value in self.defaults.get(slot, {}).items():
            if key in accepted:
                arguments.setdefault(key, accepted[key].read(value))
        shared = read_literal(registry, name, "SHARED_KEYS", {})
        if not shared.keys() & arguments.keys():
            arguments |= {k: OmegaConf.select(self.tree, key) for k, key in shared.items() if key in self._given}
        defaults = {key: argument.default for key, argument in accepted.items()}
        title, prefix = f"{registry.noun} '{name}'", slot if slot in ALL_SLOTS else f"{slot}.{name}"
        for key, value in arguments.items():
            if key == "name" and slot in ALL_SLOTS:
                continue
            if key not in accepted:
                self.errors.append(f"{title} has no argument '{prefix}.{key}'; {suggestion(key, accepted)}")
            elif refusal := find_refusal(value, defaults[key]):
                self.errors.append(f"{prefix}.{key} of {title} cannot be {value!r}: {refusal}.")
            elif problem := accepted[key].find_problem(value, defaults | arguments):
                self.errors.append(f"{prefix}.{key} of {title} {problem}.")
        for key, argument in accepted.items():
            if complete and argument.required and key not in arguments:
                self.errors.append(f"{title} needs {prefix}.{key}=..., which nothing sets.")
            arguments.setdefault(key, defaults[key])

    def _nest(self, slot: str, complete: bool) -> None:
        """Make a component an argument of the one that holds it; null where it has no name."""
        (parent, _, argument), inner = slot.partition("."), self.components.pop(slot)
        if inner["name"] is not None:
            if argument in self._arguments(parent):
                self._complete(slot, inner["name"], inner, NESTED_SLOTS[slot], complete)
            self.components[parent][argument] = inner
        elif others := [key for key in inner if key != "name"]:
            self.errors.append(f"{slot}.{others[0]} needs a {NESTED_SLOTS[slot].noun}; name one, as in {slot}=NAME.")

    def _arguments(self, slot: str) -> dict[str, Argument]:
        """Return the arguments of the component in a slot; of one that cannot be read, none."""
        with suppress(UnknownName, BadPlugin):
            return ALL_SLOTS[slot].arguments(str(self.components[slot]["name"]))
        return {}

    def _settings_of_components(self, settings: dict[str, Any]) -> dict[str, Any]:
        """Return what the task and the generator that a layer names bring: their settings, and those they require."""
        brought = {}
        task = settings.get("task", settings.get("task.name", self.components["task"]["name"]))
        registries = {"task": tasks} if freezes_generator(task) else {"task": tasks, "generator": generators}
        for slot, registry in registries.items():
            name = settings.get(slot, settings.get(f"{slot}.name"))
            suggested = read_literal(registry, name, "settings", {})
            brought |= {key: value for key, value in suggested.items() if key not in self._given}
            brought |= read_literal(registry, name, "requires", {})
        return brought

    def _select_anchors(self, by_flag: bool) -> None:
        """Keep the reference rows that the task has; one that an override names must exist."""
        name = self.components["task"]["name"]
        rows = read_literal(tasks, name, "reference_rows", {})
        if by_flag or name == DEFAULT_TASK:
            for row in self.tree.measure.anchors:
                if row not in rows:
                    self.errors.append(f"measure.anchors: task '{name}' has no row '{row}'; {suggestion(row, rows)}")
        else:
            shared = [row for row in self.tree.measure.anchors if row in rows]
            # An experiment names the rows of the task that it was written for; another task has all of its own.
            self.tree.measure.anchors = shared or (list(rows) if self.tree.measure.anchors else [])

    def _fit_memory(self, memory: int, flags: dict[str, Any]) -> None:
        """Divide the images of a step into micro-batches that fit into GPU memory; their number per step stays."""
        sizes = list_memory_presets()
        if memory not in sizes:
            self.errors.append(
                f"memory cannot be {memory}: available are {', '.join(map(str, sizes))} GB; take the next smaller one, "
                f"or create experiments/memory/{memory}.yaml."
            )
            return
        preset = {key: KEYS[key].read(value) for key, value in iterate_settings(read_memory_preset(memory))}
        images, max_batch = self.tree.batch * self.tree.accumulate, preset.pop("batch")
        batch = max(n for n in range(1, max_batch + 1) if images % n == 0)
        settings = {"batch": batch, "accumulate": images // batch}
        settings |= {key: value for key, value in preset.items() if key not in flags}
        self.apply(f"memory/{memory}.yaml", settings.items())
