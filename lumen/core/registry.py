"""Registries: names of a config to factories of components, one file per name.

Names, help and arguments are read from source files without importing them: a component may import torch, and
`lumen list` still answers at once.
"""

import ast
import importlib
import pkgutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from lumen.core.arguments import Argument
from lumen.core.docstrings import Docstring, parse_docstring
from lumen.core.errors import BadPlugin, UnknownName, suggestion
from lumen.core.plugins import Plugin, find_module, installed_plugins


class Registry:
    """Components of one package by the name of their file, and those of other packages by their entry points.

    A package that is installed beside LUMEN adds a component by an entry point in the registry's group. The name of
    the entry point is the last part of its module, and the name in the config:

        [project.entry-points."lumen.backbones"]
        dinov9 = "acme_backbones.dinov9"

    A name that LUMEN has itself stays LUMEN's; every command then prints a sentence about the ignored plug-in.

    Args:
        package: Dotted name of the package whose modules are components.
        noun: Word for a component in messages.
    """

    def __init__(self, package: str, noun: str):
        self.package, self.noun = package, noun
        self.group = f"lumen.{package.rpartition('.')[2]}"
        self._factories: dict[str, Callable] = {}  # by module

    def register(self, factory: Callable) -> Callable:
        """Register a class or function. The config sets its positional parameters, the run its keyword-only ones."""
        self._factories[factory.__module__] = factory
        return factory

    def names(self) -> list[str]:
        """Return the names of all components. A module that begins with an underscore is none."""
        return sorted({*self._built_in(), *self._plugins})

    def require(self, name: str) -> str:
        """Return a name that exists.

        Raises:
            UnknownName: No component has this name.
        """
        if name not in self.names():
            path = f"{self.package.replace('.', '/')}/{name}.py"
            hint = suggestion(name, self.names())
            raise UnknownName(f"no {self.noun} is called '{name}'; {hint} To add it, create {path}.")
        return name

    def summary(self, name: str) -> str:
        """Return the first line of the module's docstring."""
        return (ast.get_docstring(self._source(name).tree) or "").partition("\n")[0]

    def arguments(self, name: str) -> dict[str, Argument]:
        """Return the arguments that a config may set, by name.

        Raises:
            BadPlugin: An argument is called `name`, which selects the component.
        """
        spec = self._source(name).parameters
        defaults = [None] * (len(spec.args) - len(spec.defaults)) + spec.defaults
        arguments = {
            arg.arg: Argument(arg.annotation, node and self._evaluate(name, arg.arg, node), node is None)
            for arg, node in zip(spec.args, defaults, strict=True)
            if arg.arg != "self"
        }
        if "name" in arguments:
            raise BadPlugin(
                f"the {self.noun} '{name}' has an argument called 'name', which is the key that selects a "
                f"{self.noun}; rename the argument in {self._source(name).path}."
            )
        return arguments

    def documentation(self, name: str) -> Docstring:
        """Return the docstring of a component, with the entries of its constructor's."""
        factory = self._source(name).factory
        methods = factory.body if isinstance(factory, ast.ClassDef) else []
        nodes = [factory, *(node for node in methods if getattr(node, "name", "") == "__init__")]
        own, *constructor = [parse_docstring(ast.get_docstring(node)) for node in nodes]
        lines = [line for part in (own, *constructor) for line in part.sections.get("Args", [])]
        return replace(own, sections=own.sections | {"Args": lines})

    def path(self, name: str) -> str:
        """Return the path of a component's source file."""
        return self._source(name).path

    def needs(self, name: str) -> set[str]:
        """Return the names of the keyword-only parameters, which the run supplies."""
        return {arg.arg for arg in self._source(name).parameters.kwonlyargs}

    def literal(self, name: str, attribute: str, default: Any = None) -> Any:
        """Return an attribute that a component's source sets to a literal, without importing it.

        It is an attribute of the registered class, or of the module of a registered function.
        """
        source = self._source(name)
        for node in (source.factory if isinstance(source.factory, ast.ClassDef) else source.tree).body:
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            if attribute in [getattr(target, "id", None) for target in targets] and node.value is not None:
                return self._evaluate(name, attribute, node.value)
        return default

    def factory(self, name: str) -> Callable:
        """Return the class or function that makes the component."""
        module = self._module(name)
        importlib.import_module(module)
        if module not in self._factories:
            raise BadPlugin(f"{module} registers no {self.noun}; put its registry's .register above the factory.")
        return self._factories[module]

    def build(self, name: str, **arguments: Any) -> Any:
        """Return a component made from its arguments."""
        return self.factory(name)(**arguments)

    def _built_in(self) -> list[str]:
        directories = find_module(self.package).submodule_search_locations
        return [module.name for module in pkgutil.iter_modules(directories) if not module.name.startswith("_")]

    @cached_property
    def _plugins(self) -> dict[str, Plugin]:
        """Plug-ins of other packages by name. Those without a name of their own are left out, with a message."""
        plugins: dict[str, Plugin] = {}
        for plugin in installed_plugins(self.group):
            if plugin.name in self._built_in():
                reason = f"LUMEN has a {self.noun} of this name; rename the entry point and its module"
            elif plugins.get(plugin.name, plugin).module != plugin.module:
                reason = f"{plugins[plugin.name].package} has one of this name; uninstall one of the two packages"
            elif plugin.name != plugin.module.rpartition(".")[2]:
                reason = f"its module is {plugin.module}; the entry point must be named after the module's last part"
            else:
                plugins[plugin.name] = plugin
                continue
            message = f"lumen: the {self.noun} '{plugin.name}' of the package {plugin.package} is ignored: {reason}."
            print(message, file=sys.stderr)
        return plugins

    def _module(self, name: str) -> str:
        self.require(name)
        return self._plugins[name].module if name in self._plugins else f"{self.package}.{name}"

    def _source(self, name: str) -> "_Source":
        module = self._module(name)
        spec = find_module(module)
        if spec is None or not spec.has_location:
            package = self._plugins[name].package
            raise BadPlugin(
                f"the {self.noun} '{name}' of the package {package} is in {module}, which does not exist; reinstall "
                "the package."
            )
        return _parse(spec.origin, self.noun)

    def _evaluate(self, name: str, attribute: str, node: ast.expr) -> Any:
        try:
            return ast.literal_eval(node)
        except ValueError:
            raise BadPlugin(
                f"'{attribute}' of the {self.noun} '{name}' must be a literal, not {ast.unparse(node)}, so that it can "
                f"be read without importing; write it out in {self._source(name).path}."
            ) from None


@dataclass(frozen=True)
class _Source:
    """Source of a component.

    Attributes:
        factory: The registered class or function.
        parameters: Parameters of the function, or of the class's own constructor.
    """

    path: str
    tree: ast.Module
    factory: ast.ClassDef | ast.FunctionDef
    parameters: ast.arguments


_NO_PARAMETERS = ast.parse("lambda: None", mode="eval").body.args


@cache
def _parse(path: str, noun: str) -> _Source:
    """Read a component's source file.

    Raises:
        BadPlugin: It is no Python source, or registers nothing.
    """
    try:
        tree = ast.parse(Path(path).read_bytes())
    except (OSError, SyntaxError, ValueError) as error:
        raise BadPlugin(f"{path} cannot be read as the source of a {noun}: {error}.") from None
    for node in tree.body:
        decorators = [ast.unparse(decorator) for decorator in getattr(node, "decorator_list", [])]
        if any(decorator.endswith(".register") for decorator in decorators):
            if isinstance(node, ast.ClassDef):
                constructors = [n for n in node.body if getattr(n, "name", "") == "__init__"]
                return _Source(path, tree, node, constructors[0].args if constructors else _NO_PARAMETERS)
            return _Source(path, tree, node, node.args)
    raise BadPlugin(f"{path} registers no {noun}; put its registry's .register above the factory.")


backbones = Registry("backbones", "backbone")
datamodules = Registry("datamodules", "data set")
conditionings = Registry("lumen.conditionings", "conditioning")
generators = Registry("lumen.generators", "generator")
tasks = Registry("lumen.training.tasks", "task")
metrics = Registry("lumen.evaluation.metrics", "metric")
launchers = Registry("lumen.sweeps.launchers", "launcher")
