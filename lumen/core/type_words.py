"""Types and ranges in the words of a sentence."""

import ast
from collections.abc import Iterable, Iterator
from typing import Any

from lumen.core.ranges import LayerRange, Range

WORDS = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "text", "dict": "keys, values"}
PLURALS = {"int": "whole numbers", "float": "numbers", "bool": "truth values", "str": "texts"}


def describe_type(kind: ast.expr | None) -> str:
    """Return a type as it stands in an annotation, such as `Literal[8, 16] | None`, in words: "8, 16 or null"."""
    return join_words(dict.fromkeys(_iterate_words(kind))) if kind else "anything"


def describe_range(limits: Range | LayerRange) -> str:
    """Return a range in words: "from 0 to 1"."""
    if isinstance(limits, Range):
        return f"from {_format_number(limits.low)} to {_format_number(limits.high)}"
    depths = ", ".join(f"{name} {depth}" for name, depth in limits.depths.items())
    return f"layers from 0 on, or from -1 backwards ({depths} layers)"


def join_words(words: Iterable[str], conjunction: str = "or") -> str:
    """Return words as a list within a sentence: "a, b or c"."""
    *others, last = words
    return f"{', '.join(others)} {conjunction} {last}" if others else last


def format_value(value: Any) -> str:
    """Return a value as it is typed on the command line."""
    if isinstance(value, (list, tuple)):
        return f"[{','.join(map(format_value, value))}]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value) if value != "" else '""'


def literal_choices(kind: ast.expr | None) -> list[str]:
    """Return the values that a type lists one by one, those of its lists too."""
    match kind:
        case ast.BinOp(left=left, right=right):
            return literal_choices(left) + literal_choices(right)
        case ast.Subscript(value=ast.Name(id="Literal"), slice=choices):
            return [format_value(choice.value) for choice in getattr(choices, "elts", [choices])]
        case ast.Subscript(slice=item):
            return literal_choices(item.elts[0] if isinstance(item, ast.Tuple) else item)
        case ast.Constant(value=str() as annotation):
            return literal_choices(ast.parse(annotation, mode="eval").body)
        case ast.Name(id="bool"):
            return ["true", "false"]
        case ast.Constant(value=None):
            return ["null"]
    return []


def _iterate_words(kind: ast.expr) -> Iterator[str]:
    match kind:
        case ast.BinOp(left=left, right=right):
            yield from _iterate_words(left)
            yield from _iterate_words(right)
        case ast.Constant(value=None):
            yield "null"
        case ast.Constant(value=str() as annotation):
            yield from _iterate_words(ast.parse(annotation, mode="eval").body)
        case ast.Subscript(value=ast.Name(id="Literal")):
            yield from literal_choices(kind)
        case ast.Subscript(value=ast.Name(id="dict")):
            yield WORDS["dict"]
        case ast.Subscript(slice=item):
            item = item.elts[0] if isinstance(item, ast.Tuple) else item
            yield f"a list of {PLURALS.get(ast.unparse(item)) or describe_type(item)}"
        case _:
            yield WORDS.get(ast.unparse(kind), ast.unparse(kind))


def _format_number(number: float) -> str:
    return f"{number:,}" if isinstance(number, int) else f"{number:g}"
