"""Registries: names, arguments and literals read from source equal those that Python imports."""

import ast
import inspect
import subprocess
import sys

import pytest

from lumen.core.arguments import Argument
from lumen.core.errors import BadPlugin, UnknownName
from lumen.core.registry import Registry, backbones, conditionings, datamodules, launchers

COMPONENTS = [
    (registry, name) for registry in (backbones, conditionings, datamodules, launchers) for name in registry.names()
]


@pytest.mark.parametrize(("registry", "name"), COMPONENTS, ids=lambda x: getattr(x, "noun", x))
def test_registry_arguments_equal_those_of_the_imported_factory(registry, name):
    parameters = inspect.signature(registry.factory(name)).parameters.values()
    expected = {p.name: p.default for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD}
    missing = inspect.Parameter.empty
    arguments = registry.arguments(name)
    assert {key: missing if a.required else a.default for key, a in arguments.items()} == expected
    assert registry.needs(name) == {p.name for p in parameters if p.kind is p.KEYWORD_ONLY}
    assert registry.summary(name).endswith(".")
    assert all(a.required or a.accepts(a.default) for a in arguments.values())


def test_registry_suggests_the_nearest_name():
    with pytest.raises(UnknownName, match=r"did you mean 'dinov2'\? Available: .*create backbones/dinov4.py"):
        backbones.build("dinov4")


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
def test_argument_accepts_values_of_its_type(kind, good, bad):
    argument = Argument(ast.parse(kind, mode="eval").body, None, True)
    assert all(argument.accepts(value) for value in good)
    assert not any(argument.accepts(value) for value in bad)


@pytest.fixture
def registry(tmp_path, monkeypatch):
    """A registry of an empty package that a test writes components to."""
    (tmp_path / "components").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    return Registry("components", "component")


def test_registry_literal_reads_class_attributes_without_import(registry, tmp_path):
    (tmp_path / "components" / "square.py").write_text(
        "raise ImportError\n"
        "@components.register\n"
        "class Square:\n"
        "    scores = ('area', 'edge')\n"
        "    rows: dict[str, str] = {'real': 'The image'}\n"
        "    sides: int\n"
        "    total = len(scores)\n"
    )
    assert registry.literal("square", "scores") == ("area", "edge")
    assert registry.literal("square", "rows", {}) == {"real": "The image"}
    assert registry.literal("square", "sides", 4) == 4 and registry.literal("square", "colour") is None
    assert registry.arguments("square") == {} and registry.needs("square") == set()
    with pytest.raises(BadPlugin, match=r"'total' .* 'square' must be a literal, not len\(scores\)"):
        registry.literal("square", "total")


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("import os\n", "registers no component"),
        ("def square(:\n", "cannot be read"),
        ("@components.register\ndef square(name: str): ...\n", "argument called 'name'"),
    ],
)
def test_registry_rejects_a_component_that_breaks_the_rules(registry, tmp_path, source, words):
    (tmp_path / "components" / "square.py").write_text(source)
    with pytest.raises(BadPlugin, match=words) as error:
        registry.arguments("square")
    assert "square.py" in str(error.value)


def test_registry_commands_import_no_network():
    code = "import sys; from lumen.__main__ import main; main(['list']); main(['show', 'scenes']); "
    code += "assert not {'torch', 'lightning', 'diffusers', 'numpy'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
