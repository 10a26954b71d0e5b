"""What a registry says of its components, read from their source, is what Python says of them."""

import ast
import importlib
import inspect
import subprocess
import sys

import pytest

from lumen.core.errors import UnknownName
from lumen.core.registry import Argument, backbones, conditionings, datamodules, launchers

EVERY = [
    (registry, name) for registry in (backbones, conditionings, datamodules, launchers) for name in registry.names()
]


@pytest.mark.parametrize(("registry", "name"), EVERY, ids=lambda x: getattr(x, "noun", x))
def test_arguments_are_those_of_the_factory(registry, name):
    importlib.import_module(f"{registry.package}.{name}")
    parameters = inspect.signature(registry._factories[name]).parameters.values()
    theirs = {p.name: p.default for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD}
    missing = inspect.Parameter.empty
    ours = {key: missing if a.required else a.default for key, a in registry.arguments(name).items()}
    assert ours == theirs
    assert registry.needs(name) == {p.name for p in parameters if p.kind is p.KEYWORD_ONLY}
    assert registry.summary(name).endswith(".")
    assert all(a.required or a.accepts(a.default) for a in registry.arguments(name).values())


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(UnknownName, match=r"did you mean 'dinov2'\? There are: .*write backbones/dinov3.py"):
        backbones.build("dinov3")


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        ("int", [1], [True, 1.0, "1", None]),
        ("float", [1, 1.5], [True, "1"]),
        ("str | None", ["a", None], [1]),
        ("Literal[8, 16]", [8], [14, "8"]),
        ("int | list[int]", [1, [1, 2], []], ["1", [1.5]]),
        ("bool", [True], [1, "true"]),
    ],
)
def test_types_of_arguments(kind, good, bad):
    argument = Argument(ast.parse(kind, mode="eval").body, None, True)
    assert all(argument.accepts(value) for value in good)
    assert not any(argument.accepts(value) for value in bad)


def test_naming_what_exists_imports_no_network():
    code = "import sys; from lumen.__main__ import main; main(['list']); main(['show', 'scenes']); "
    code += "assert not {'torch', 'lightning', 'diffusers', 'numpy'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
