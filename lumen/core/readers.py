"""Readers of files that LUMEN writes: whatever is wrong with one becomes a sentence that names it."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lumen.core.errors import BadFile, Mistake, explain_shortage

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor
    from yaml import SafeLoader

Shape = dict[str, Any]  # type of the value of each key that content must have; a shape for keys and values
MAX_YAML_NODES = 100_000  # with every alias written out: a few nested aliases stand for billions of values
MAX_REASON_LENGTH = 200  # characters of a parser's own words


@contextmanager
def explain_damage(path: Path, remedy: str) -> Iterator[None]:
    """Convert whatever goes wrong within the context, in which a file is read, into one sentence.

    Args:
        remedy: Next step, such as "remove it".

    Raises:
        BadFile: The file is damaged.
        Mistake: The system does not give the file, or memory ran short.
    """
    try:
        yield
    except Mistake:
        raise
    except Exception as error:  # parsers raise dozens of types for damaged files
        if shortage := explain_shortage(error):
            raise Mistake(f"{path} cannot be read: {shortage}") from error
        kind = Mistake if isinstance(error, OSError) and error.errno else BadFile
        raise kind(f"{path} cannot be read ({_reason(path, error)}); {remedy}.") from error


def read_text(path: Path, remedy: str) -> str:
    """Return the text of a UTF-8 file."""
    with explain_damage(path, remedy):
        return path.read_text(encoding="utf-8")


def read_json(path: Path, remedy: str, shape: Shape | None = None) -> dict[str, Any]:
    """Return the content of a JSON file: keys and values, among them those of the shape."""
    with explain_damage(path, remedy):
        content = json.loads(path.read_text(encoding="utf-8"))
        require_shape(content, shape or {})
        return content


def read_yaml(path: Path, remedy: str, shape: Shape | None = None) -> dict[str, Any]:
    """Return the content of a YAML file: keys and plain values, among them those of the shape."""
    import yaml

    with explain_damage(path, remedy):
        content = parse_yaml(path.read_text(encoding="utf-8"), yaml.SafeLoader)
        require_shape(content, shape or {})
        json.dumps(content, sort_keys=True)  # a run's config is hashed in this form
        return content


def parse_yaml(text: str, loader_class: type["SafeLoader"]) -> Any:
    """Return the content of YAML text, unless its aliases stand for too many values."""
    loader = loader_class(text)
    node = loader.get_single_node()
    if node is not None and _count_nodes(node, {}) > MAX_YAML_NODES:
        raise ValueError(f"its aliases stand for more than {MAX_YAML_NODES:,} values")
    return None if node is None else loader.construct_document(node)


def parse_line(line: bytes) -> dict[str, Any] | None:
    """Return the keys and values of a line of JSON; None if the line is damaged or incomplete."""
    try:
        record = json.loads(line.decode())
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


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


def require_shape(content: Any, shape: Shape, name: str = "it") -> None:
    """Verify that content holds the keys of a shape, with values of its types.

    Args:
        name: Subject of the error.

    Raises:
        ValueError: It does not.
    """
    if not isinstance(content, dict):
        raise ValueError(f"{name} holds {_kind(content)}, not keys and values")
    for key, expected in shape.items():
        if key not in content:
            raise ValueError(f"{name} has no '{key}'")
        if isinstance(expected, dict):
            require_shape(content[key], expected, f"its '{key}'")
        elif not isinstance(content[key], expected):
            raise ValueError(f"its '{key}' is {_kind(content[key])}")


def _kind(content: Any) -> str:
    names = {type(None): "nothing", dict: "keys and values", list: "a list", str: "text", bool: "a truth value"}
    return names.get(type(content), "a number")


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
