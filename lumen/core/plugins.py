"""Plug-ins of other packages: modules that entry points name, located without importing them."""

from dataclasses import dataclass
from functools import cache
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec
from typing import Any


@dataclass(frozen=True)
class Plugin:
    """Component that an installed package offers by an entry point.

    Attributes:
        name: Name of the entry point, and of the component.
        module: Dotted name of the module that registers the component.
        package: Name and version of the installed package.
    """

    name: str
    module: str
    package: str


def installed_plugins(group: str) -> list[Plugin]:
    """Return the plug-ins of an entry-point group, by name and package."""
    entry_points = _entry_points().select(group=group)
    plugins = [Plugin(entry.name, entry.module, f"{entry.dist.name} {entry.dist.version}") for entry in entry_points]
    return sorted(plugins, key=lambda plugin: (plugin.name, plugin.package))


@cache
def _entry_points() -> Any:
    """Read the entry points of all installed packages, once per process."""
    from importlib.metadata import entry_points

    return entry_points()


def find_module(module: str) -> ModuleSpec | None:
    """Return the spec of a module, without importing its parent packages as `importlib.util.find_spec` does."""
    top, *parts = module.split(".")
    spec = find_spec(top)
    for part in parts:
        if spec is None or spec.submodule_search_locations is None:
            return None
        # By its last name: the search path of a nested namespace package would else need the imported parent.
        spec = PathFinder.find_spec(part, list(spec.submodule_search_locations))
    return spec
