"""Readers of files that LUMEN writes: whatever is wrong with one becomes a sentence that names it."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lumen.core.errors import BadFile, Mistake

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

MAX_YAML_NODES = 100_000  # with every alias written out: a few nested aliases stand for billions of values
MAX_REASON_LENGTH = 200  # characters of a parser's own words


@contextmanager
def explain_damage(path: Path, remedy: str) -> Iterator[None]:
    """Convert whatever goes wrong within the context, in which a file is read, into one sentence.

    Args:
        remedy: Next step, such as "remove it".

    Raises:
        BadFile: The file is damaged.
        Mistake: The system does not give the file.
    """
    try:
        yield
    except Mistake:
        raise
    except Exception as error:  # parsers raise dozens of types for damaged files
        kind = Mistake if isinstance(error, OSError) and error.errno else BadFile
        raise kind(f"{path} cannot be read ({_reason(path, error)}); {remedy}.") from error


def read_text(path: Path, remedy: str) -> str:
    """Return the text of a UTF-8 file."""
    with explain_damage(path, remedy):
        return path.read_text(encoding="utf-8")


def read_json(path: Path, remedy: str, *keys: str) -> dict[str, Any]:
    """Return the content of a JSON file, which must hold these keys."""
    with explain_damage(path, remedy):
        return _require_keys(json.loads(path.read_text(encoding="utf-8")), keys)


def read_yaml(path: Path, remedy: str, *keys: str) -> dict[str, Any]:
    """Return the content of a YAML file, which must hold these keys, and plain values alone."""
    import yaml

    with explain_damage(path, remedy):
        loader = yaml.SafeLoader(path.read_text(encoding="utf-8"))
        node = loader.get_single_node()
        if node is not None and _count_nodes(node, {}) > MAX_YAML_NODES:
            raise ValueError(f"its aliases stand for more than {MAX_YAML_NODES:,} values")
        content = _require_keys(None if node is None else loader.construct_document(node), keys)
        json.dumps(content, sort_keys=True)  # a run's config is hashed in this form
        return content


def read_array(path: Path, remedy: str) -> "np.ndarray":
    """Return the array of an npy file, memory-mapped."""
    from numpy.lib.format import open_memmap  # np.load would unpickle what has no header

    with explain_damage(path, remedy):
        return open_memmap(path, mode="r")


def read_tensors(path: Path, remedy: str) -> dict[str, "Tensor"]:
    """Return the tensors of a safetensors file."""
    from safetensors.torch import load_file

    with explain_damage(path, remedy):
        return load_file(path)


def _require_keys(content: Any, keys: tuple[str, ...]) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise ValueError(f"it holds {_kind(content)}, not keys and values")
    if missing := [key for key in keys if key not in content]:
        raise ValueError(f"it has no '{missing[0]}'")
    return content


def _kind(content: Any) -> str:
    names = {type(None): "nothing", list: "a list", str: "text", bool: "a truth value"}
    return names.get(type(content), "a number" if isinstance(content, int | float) else "a value")


def _count_nodes(node: Any, counts: dict[int, int]) -> int:
    """Return the number of nodes of a YAML tree, each as often as an alias names it."""
    if id(node) not in counts:
        pairs = node.value if isinstance(node.value, list) else []
        children = [child for pair in pairs for child in (pair if isinstance(pair, tuple) else (pair,))]
        counts[id(node)] = 1 + sum(_count_nodes(child, counts) for child in children)
    return counts[id(node)]


def _reason(path: Path, error: Exception) -> str:
    """Return the cause of an error in a few words."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if path.is_file() and path.stat().st_size == 0:
        return "it is empty"
    if isinstance(error, UnicodeDecodeError):
        return "it is not UTF-8 text"
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    text = str(error).replace('in "<unicode string>", ', "in ")  # as YAML calls the file
    return " ".join(text.split()).rstrip(".")[:MAX_REASON_LENGTH] or type(error).__name__
