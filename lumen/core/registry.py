"""Names of a config to factories of parts: one file in a package is one name.

What exists, its help and its arguments are read from the source, not by importing it: a
backbone's file may import torch at its top, and `lumen list` still answers at once.
"""

import ast
import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lumen.core.errors import UnknownName, known


@dataclass(frozen=True)
class Argument:
    """One argument a user may give to a component."""

    annotation: ast.expr | None
    default: Any
    required: bool

    @property
    def kind(self) -> str:
        return ast.unparse(self.annotation) if self.annotation else "anything"

    def accepts(self, value: Any) -> bool:
        return self.annotation is None or _fits(value, self.annotation)


class Registry:
    """The components of one package, by the name of their file."""

    def __init__(self, package: str, noun: str):
        self.package, self.noun = package, noun
        self._factories: dict[str, Callable] = {}

    def register(self, factory: Callable) -> Callable:
        """Decorates the factory; positional parameters are the user's, keyword-only ones the run's."""
        self._factories[factory.__module__.rpartition(".")[2]] = factory
        return factory

    def names(self) -> list[str]:
        """Every module of the package that does not begin with an underscore."""
        places = find_spec(self.package).submodule_search_locations
        return sorted(m.name for m in pkgutil.iter_modules(places) if not m.name.startswith("_"))

    def require(self, name: str) -> str:
        if name not in self.names():
            where = f"{self.package.replace('.', '/')}/{name}.py"
            raise UnknownName(
                f"no {self.noun} is called '{name}'; {known(name, self.names())} To add it, write {where}."
            )
        return name

    def summary(self, name: str) -> str:
        """The first line of the module's docstring."""
        return (ast.get_docstring(self._source(name)[0]) or "").partition("\n")[0]

    def arguments(self, name: str) -> dict[str, Argument]:
        """What a config may set, by name."""
        spec = self._source(name)[1].args
        defaults = [None] * (len(spec.args) - len(spec.defaults)) + spec.defaults
        return {
            arg.arg: Argument(arg.annotation, node and ast.literal_eval(node), node is None)
            for arg, node in zip(spec.args, defaults, strict=True)
            if arg.arg != "self"
        }

    def needs(self, name: str) -> set[str]:
        """What the run supplies: the keyword-only parameters."""
        return {arg.arg for arg in self._source(name)[1].args.kwonlyargs}

    def factory(self, name: str) -> Callable:
        """What makes the component: a class, or a function."""
        self.require(name)
        importlib.import_module(f"{self.package}.{name}")
        return self._factories[name]

    def build(self, name: str, **arguments: Any) -> Any:
        """The component, made."""
        return self.factory(name)(**arguments)

    def _source(self, name: str) -> tuple[ast.Module, ast.FunctionDef]:
        self.require(name)
        return _parse(find_spec(f"{self.package}.{name}").origin)


@cache
def _parse(path: str) -> tuple[ast.Module, ast.FunctionDef]:
    """A module's tree and the registered factory in it (of a class, its constructor)."""
    tree = ast.parse(Path(path).read_text())
    for node in tree.body:
        marks = [ast.unparse(mark) for mark in getattr(node, "decorator_list", [])]
        if any(mark.endswith(".register") for mark in marks):
            if isinstance(node, ast.ClassDef):
                node = next(n for n in node.body if getattr(n, "name", "") == "__init__")
            return tree, node
    raise SyntaxError(f"{path} registers nothing; put the registry's .register above its factory")


def _fits(value: Any, kind: ast.expr) -> bool:
    """Whether a config value is of an annotated type: scalars, unions, Literal, list, tuple."""
    match kind:
        case ast.Constant(value=None):
            return value is None
        case ast.BinOp(left=left, right=right):
            return _fits(value, left) or _fits(value, right)
        case ast.Name(id="float"):
            return isinstance(value, (int, float)) and not isinstance(value, bool)
        case ast.Name(id="int"):
            return isinstance(value, int) and not isinstance(value, bool)
        case ast.Name(id=name):
            return type(value).__name__ == name
        case ast.Subscript(value=ast.Name(id="Literal"), slice=choices):
            return value in [c.value for c in getattr(choices, "elts", [choices])]
        case ast.Subscript(slice=item):
            item = item.elts[0] if isinstance(item, ast.Tuple) else item
            return isinstance(value, (list, tuple)) and all(_fits(v, item) for v in value)
    return False


backbones = Registry("backbones", "backbone")
datamodules = Registry("datamodules", "data set")
conditionings = Registry("lumen.conditionings", "conditioning")
metrics = Registry("lumen.evaluation.metrics", "metric")
launchers = Registry("lumen.sweeps.launchers", "launcher")
