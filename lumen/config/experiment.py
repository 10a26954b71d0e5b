"""An experiment's settings: base.yaml, one file of differences, key=value flags; all errors at once."""

from collections.abc import Iterable, Iterator, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lumen.config.schema import FRACTION, NONNEGATIVE, POSITIVE, SLOTS, Config
from lumen.core.errors import BadConfig, UnknownName, suggestion
from lumen.core.registry import Registry, metrics
from lumen.core.signals import seconds


def experiments() -> list[str]:
    """The names of the YAML files beside base.yaml."""
    names = (Path(f.name) for f in files("experiments").iterdir())
    return sorted(n.stem for n in names if n.suffix == ".yaml" and n.stem != "base")


def load(experiment: str, flags: Sequence[str] = (), complete: bool = True) -> Config:
    """The config of an experiment (a name, or the path of a YAML file) with `key=value` flags applied.

    Args:
        complete: whether an argument without a default that nobody gave, such as data.root, is an error.

    Raises:
        BadConfig: unknown keys, wrong types, wrong component arguments: all of them in one message.
        UnknownName: no such experiment.
    """
    draft = _Draft(_read("base"))
    draft.apply(f"{Path(experiment).stem}.yaml", _leaves(_read(experiment)))
    config = draft.finish(flags, complete)
    config.experiment = Path(experiment).stem
    return config


def reload(saved: dict[str, Any], flags: Sequence[str] = ()) -> Config:
    """The config of a run as its config.yaml has it, with flags applied; `flags` then holds only those."""
    draft = _Draft(_read("base") | {"metrics": []})
    record = ("experiment", "flags", "defaults")
    draft.apply("config.yaml", _leaves({k: v for k, v in saved.items() if k not in record}))
    draft.defaults = saved.get("defaults", {})
    config = draft.finish(flags, complete=True)
    config.experiment = saved["experiment"]
    return config


def dump(config: Config) -> dict[str, Any]:
    """The config as a plain nested dict: what goes into config.yaml, checkpoints and W&B."""
    return OmegaConf.to_container(OmegaConf.structured(config), resolve=False)


class _Draft:
    """A config in the making: slots by name and argument, all else typed by the dataclass."""

    def __init__(self, base: dict[str, Any]):
        self.errors: list[str] = []
        self.slots = {slot: {"name": base[slot]} for slot in SLOTS}
        self.metrics: dict[str, dict[str, Any]] = {}
        self.defaults: dict[str, dict[str, Any]] = {}
        rest = {key: value for key, value in base.items() if key not in (*SLOTS, "metrics")}
        self.tree = OmegaConf.merge(OmegaConf.structured(Config), rest)
        self.keys = [key for key, _ in _leaves(base)]
        self.names = {f"{slot}.name" for slot in SLOTS}
        self.apply("base.yaml", [("metrics", base["metrics"])])

    def apply(self, where: str, settings: Iterable[tuple[str, Any]]) -> None:
        """One layer of settings; a component named anew drops the arguments of the one before."""
        settings = [(f"{key}.name" if key in SLOTS else key, value) for key, value in settings]
        named = {key for key, _ in settings if key in self.names}
        # names first, and then what belongs to them
        for key, value in sorted(settings, key=lambda pair: pair[0] not in named and pair[0] != "metrics"):
            slot, _, argument = key.partition(".")
            if slot == "defaults":
                target, _, name = argument.partition(".")
                self.defaults.setdefault(target, {})[name] = value
            elif slot == "metrics":
                self._measure(where, argument, value)
            elif slot not in SLOTS:
                self._set(where, key, value)
            elif argument == "name" and value != self.slots[slot]["name"]:
                self.slots[slot] = {"name": value}
            else:
                self.slots[slot][argument] = value

    def finish(self, flags: Sequence[str], complete: bool) -> Config:
        """The typed config once the flags of the command line are in it."""
        given = dict(self._pairs(flags))
        self.apply("the command line", given.items())
        for slot, registry in SLOTS.items():
            self._component(slot, self.slots[slot].get("name"), self.slots[slot], registry, complete)
        for name, chosen in self.metrics.items():
            self._component("metrics", name, chosen, metrics, complete)
        for key in sorted(POSITIVE):
            self._demand(key, lambda value: value > 0, "must be more than 0")
        for key in sorted(NONNEGATIVE):
            self._demand(key, lambda value: value >= 0, "must be 0 or more")
        for key in sorted(FRACTION):
            self._demand(key, lambda value: 0 <= value <= 1, "must be between 0 and 1")
        self._demand("stop_after", lambda value: value is None or seconds(value), "must be a time such as 3h50m or 90s")
        if not self.errors and self.tree.memory is not None:
            self._fit(self.tree.memory, given)
        if self.errors:
            raise BadConfig("\n".join(self.errors))
        return OmegaConf.to_object(
            OmegaConf.merge(self.tree, self.slots, {"metrics": self.metrics, "defaults": self.defaults, "flags": given})
        )

    def _pairs(self, flags: Sequence[str]) -> Iterator[tuple[str, Any]]:
        """Flags as settings, their values read as YAML reads them; what is no flag is an error."""
        for flag in flags:
            key, equals, text = flag.partition("=")
            if not equals or not all(part.isidentifier() for part in key.split(".")):
                self.errors.append(f"'{flag}' is no flag; write key=value, as in backbone=clip or lr=1e-5.")
                continue
            value = OmegaConf.to_container(OmegaConf.from_dotlist([f"value={text}"]), resolve=False)["value"]
            yield from _leaves({key: value})

    def _set(self, where: str, key: str, value: Any) -> None:
        if key not in self.keys:
            self.errors.append(f"{where}: there is no key '{key}'; {suggestion(key, self.keys)}")
            return
        if "${" in str(value):
            self.errors.append(f"{where}: {key} cannot be {value!r}: values are taken as they stand; write it out.")
            return
        try:
            OmegaConf.update(self.tree, key, value)
        except OmegaConfBaseException as error:
            reason = str(error).partition("\n")[0].rstrip(".")
            self.errors.append(f"{where}: {key} cannot be {value!r}: {reason}.")

    def _measure(self, where: str, path: str, value: Any) -> None:
        """`metrics` is a list of names, keeping the arguments of those named before; below it, one argument of one."""
        name, _, argument = path.partition(".")
        if argument:
            self.metrics.setdefault(name, {})[argument] = value
        elif name and value in ({}, None):
            self.metrics.setdefault(name, {})
        elif name:
            self.errors.append(
                f"{where}: metrics.{name} takes no value; write metrics=[{name}], or metrics.{name}.ARGUMENT=VALUE."
            )
        elif isinstance(value, str):
            self.metrics = {value: self.metrics.get(value, {})}
        elif isinstance(value, list | dict) and all(isinstance(each, str) for each in value):
            self.metrics = {each: self.metrics.get(each, {}) for each in value}
        else:
            self.errors.append(f"{where}: metrics cannot be {value!r}; write names, as in metrics=[miou,lpips].")

    def _component(self, slot: str, name: Any, chosen: dict[str, Any], registry: Registry, complete: bool) -> None:
        """Fills in the experiment's defaults for a component and checks its name and arguments."""
        try:
            accepted = registry.arguments(str(name))
        except UnknownName as error:
            self.errors.append(str(error))
            return
        for key, value in self.defaults.get(slot, {}).items():
            if key in accepted:
                chosen.setdefault(key, value)
        title, place = f"{registry.noun} '{name}'", slot if slot in SLOTS else f"{slot}.{name}"
        for key, value in chosen.items():
            if key == "name" and slot in SLOTS:
                continue
            if key not in accepted:
                self.errors.append(f"{title} has no argument '{place}.{key}'; {suggestion(key, accepted)}")
            elif not accepted[key].accepts(value):
                self.errors.append(f"{place}.{key} of {title} must be {accepted[key].kind}, not {value!r}.")
        for key, argument in accepted.items():
            if complete and argument.required and key not in chosen:
                self.errors.append(f"{title} needs {place}.{key}=..., which nothing has set.")
            chosen.setdefault(key, argument.default)

    def _fit(self, memory: int, given: dict[str, Any]) -> None:
        """Cuts the images of a step into micro-batches that a GPU has room for; their number per step stays."""
        sizes = sorted(int(Path(file.name).stem) for file in (files("experiments") / "memory").iterdir())
        if memory not in sizes:
            self.errors.append(
                f"memory cannot be {memory}: there are {', '.join(map(str, sizes))} GB; take the next below, or write "
                f"experiments/memory/{memory}.yaml."
            )
            return
        preset = dict(_leaves(_read(str(files("experiments") / "memory" / f"{memory}.yaml"))))
        step, most = self.tree.batch * self.tree.accumulate, preset.pop("batch")
        batch = max(n for n in range(1, most + 1) if step % n == 0)
        cut = {"batch": batch, "accumulate": step // batch}
        cut |= {key: value for key, value in preset.items() if key not in given}
        self.apply(f"memory/{memory}.yaml", cut.items())

    def _demand(self, key: str, holds: Any, rule: str) -> None:
        value = OmegaConf.select(self.tree, key)
        if not holds(value):
            self.errors.append(f"{key} {rule}, not {value}.")


def _read(name: str) -> dict[str, Any]:
    path = Path(name) if name.endswith((".yaml", ".yml")) else None
    if path is None and name not in [*experiments(), "base"]:
        raise UnknownName(
            f"no experiment is called '{name}'; {suggestion(name, experiments())} Or give the path of a .yaml file."
        )
    try:
        text = (path or files("experiments") / f"{name}.yaml").read_text()
        tree = OmegaConf.to_container(OmegaConf.create(text), resolve=False)
    except FileNotFoundError:
        raise UnknownName(f"there is no file {name}; write it, or name one of: {', '.join(experiments())}.") from None
    except (yaml.YAMLError, OmegaConfBaseException, UnicodeDecodeError, RecursionError) as error:
        raise BadConfig(f"{name} is no YAML that can be read: {' '.join(str(error).split())}.") from None
    if not isinstance(tree, dict):
        raise BadConfig(f"{name} must hold keys and values, not {type(tree).__name__}.")
    return tree


def _leaves(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
