"""Plug-ins of other packages: found by entry points, read without import, never in place of a built-in component."""

import importlib
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch

from lumen.core import plugins
from lumen.core.errors import BadPlugin
from lumen.core.registry import Registry, backbones

SOURCE = '''"""Grey values of an image."""

from lumen.core.registry import backbones


@backbones.register
def {name}(channels: int = 3, *, classes: int = 0):
    return "{name}", channels
'''


def install(root, package: str, names: list[str], group: str = "lumen.backbones") -> None:
    """Write a package and its metadata as an installer would: one module and one entry point per name."""
    info = root / f"{package}-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text(
        "\n".join([f"[{group}]", *(f"{name} = {package}.inner.{name}" for name in names)]) + "\n"
    )
    inner = root / package / "inner"  # without __init__.py: a nested namespace package
    inner.mkdir(parents=True)
    (root / package / "__init__.py").write_text("raise RuntimeError('imported too early')\n")
    for name in names:
        (inner / f"{name}.py").write_text(SOURCE.format(name=name))


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A directory of installed packages, whose entry points are read anew."""
    monkeypatch.syspath_prepend(str(tmp_path))
    plugins._entry_points.cache_clear()
    yield tmp_path
    plugins._entry_points.cache_clear()


def test_plugin_is_described_without_import(site):
    install(site, "acme", ["grey"])
    registry = Registry("backbones", "backbone")
    assert "grey" in registry.names() and registry.names() == sorted(registry.names())
    assert registry.summary("grey") == "Grey values of an image."
    assert registry.arguments("grey")["channels"].default == 3 and registry.needs("grey") == {"classes"}
    assert "acme" not in sys.modules


def test_plugin_is_built_by_name(site):
    install(site, "acme", ["grey"])
    (site / "acme" / "__init__.py").write_text("")
    code = "from lumen.core.registry import backbones; assert backbones.build('grey', channels=1) == ('grey', 1)"
    subprocess.run([sys.executable, "-c", f"import sys; sys.path.insert(0, {str(site)!r}); {code}"], check=True)


def test_plugin_groups_are_those_of_the_registries(site):
    install(site, "acme", ["grey"], group="lumen.metrics")
    assert "grey" in Registry("lumen.evaluation.metrics", "metric").names()
    assert "grey" not in Registry("backbones", "backbone").names()


def test_plugin_never_replaces_a_built_in_component(site, capsys):
    install(site, "acme", ["dino", "grey"])
    registry = Registry("backbones", "backbone")
    assert registry.arguments("dino").keys() > {"patch", "weights"} and "grey" in registry.names()
    message = capsys.readouterr().err
    assert message.count("\n") == 1 and message.startswith("lumen: ") and message.endswith(".\n")
    assert "'dino'" in message and "acme 1.2" in message and "rename the entry point" in message
    registry.names()
    assert capsys.readouterr().err == ""


def test_plugins_of_one_name_are_reported(site, capsys):
    install(site, "acme", ["grey"])
    install(site, "beta", ["grey"])
    assert Registry("backbones", "backbone").summary("grey")
    message = capsys.readouterr().err
    assert "beta 1.2" in message and "acme 1.2" in message


def test_plugin_name_must_be_that_of_its_module(site, capsys):
    install(site, "acme", ["grey"])
    entry_points = site / "acme-1.2.dist-info" / "entry_points.txt"
    entry_points.write_text("[lumen.backbones]\ngray = acme.inner.grey\n")
    assert "gray" not in Registry("backbones", "backbone").names()
    assert "acme.inner.grey" in capsys.readouterr().err


def test_plugin_without_a_source_file_is_named(site):
    install(site, "acme", ["grey"])
    (site / "acme" / "inner" / "grey.py").unlink()
    with pytest.raises(BadPlugin, match="'grey' of the package acme 1.2"):
        Registry("backbones", "backbone").summary("grey")


def test_backbone_of_the_docs_is_found_in_a_package_of_its_own(site):
    page = (Path(__file__).parents[2] / "docs" / "backbones.md").read_text()
    (source,) = re.findall(r"^```python\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    (project,) = re.findall(r"^```toml\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    ((group, modules),) = tomllib.loads(project)["project"]["entry-points"].items()
    ((name, module),) = modules.items()
    install(site, module.partition(".")[0], [name], group)
    (site / "acme_backbones-1.2.dist-info" / "entry_points.txt").write_text(f"[{group}]\n{name} = {module}\n")
    (site / "acme_backbones" / "__init__.py").write_text("")
    (site / f"{module.replace('.', '/')}.py").write_text(source)
    registry = Registry("backbones", "backbone")
    assert registry.summary(name).startswith("Edges") and registry.arguments(name)["cell"].default == 8
    importlib.import_module(module)
    backbone = backbones._factories[module](cell=16)
    image = torch.rand(2, 3, 32, 48) * 2 - 1
    assert backbone.features(image).shape == (2, backbone.channels, 2, 3)
    torch.testing.assert_close(backbone.features(image)[0, 0, 1, 2], image[0, :, 16:, 32:].mean())
