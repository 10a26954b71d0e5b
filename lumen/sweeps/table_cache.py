"""Cache of what is computed from a table's runs, so that an unchanged table is printed without importing torch."""

from collections.abc import Iterable
from contextlib import suppress
from functools import cache
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

from lumen.core.errors import Mistake
from lumen.core.files import write_json
from lumen.core.hashing import hash_file, hash_json
from lumen.core.plugins import find_module, installed_plugins
from lumen.core.readers import read_json
from lumen.core.registry import metrics

# Code and libraries that cells and pictures of a table depend on.
PACKAGES = ("core", "features", "evaluation", "sweeps")
LIBRARIES = ("torch", "numpy", "scipy", "matplotlib", "pillow")


class CachedJSON:
    """JSON file whose content is valid for one hash of its inputs.

    A file that is missing, damaged or cannot be written is no error: its content is computed again.

    Args:
        inputs: Hash of everything that the content depends on.
    """

    def __init__(self, path: Path, inputs: str):
        self.path, self.inputs = path, inputs

    def load(self) -> Any:
        """Return the content; None if there is none for these inputs."""
        try:
            record = read_json(self.path, "remove it", {"inputs": str, "hash": str, "content": object})
        except Mistake:
            return None
        valid = record["inputs"] == self.inputs and record["hash"] == hash_json(record["content"])
        return record["content"] if valid else None

    def save(self, content: Any) -> None:
        """Write the content, in place of that for earlier inputs."""
        with suppress(Mistake):
            write_json(self.path, {"inputs": self.inputs, "hash": hash_json(content), "content": content})


def hash_inputs(definition: Any, paths: Iterable[Path]) -> str:
    """Return a hash of plain values, of the bytes of files, and of the code that reads them."""
    return hash_json([definition, [_hash_file(path) for path in paths], _code_version()])


@cache
def _code_version() -> str:
    """Return a hash of the source files and library versions that results depend on."""
    sources = [path for package in PACKAGES for path in (Path(str(files("lumen"))) / package).rglob("*.py")]
    plugins = [find_module(plugin.module) for plugin in installed_plugins(metrics.group)]
    sources += [Path(spec.origin) for spec in plugins if spec is not None and spec.has_location]
    return hash_json([[_hash_file(path) for path in sorted(sources)], [version(name) for name in LIBRARIES]])


def _hash_file(path: Path) -> str | None:
    return hash_file(path) if path.exists() else None
