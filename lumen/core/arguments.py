"""Arguments of components: type, range and default, read from source without importing it."""

import ast
import copy
import math
import reprlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any, get_args

from lumen.core import ranges
from lumen.core.plain_text import PlainText, iterate_numbers, iterate_scalars, parse_plain
from lumen.core.ranges import LayerRange, Range
from lumen.core.type_words import describe_type, literal_choices

ALIASES = {name: getattr(ranges, name) for name in ("Count", "Share", "Seed")}
RANGES = {"Range": Range, "LayerRange": LayerRange}


@dataclass(frozen=True)
class Argument:
    """Argument of a component that a config may set."""

    annotation: ast.expr | None
    default: Any
    required: bool

    @cached_property
    def _type(self) -> tuple[ast.expr | None, list[Range | LayerRange]]:
        """The annotation without ranges, and the ranges."""
        separation = _Separation()
        return self.annotation and separation.visit(copy.deepcopy(self.annotation)), separation.ranges

    @property
    def kind(self) -> str:
        """The type in words, without ranges."""
        return describe_type(self._type[0])

    @property
    def choices(self) -> list[str]:
        """Values that the type lists one by one, as they are typed."""
        return literal_choices(self._type[0])

    @property
    def ranges(self) -> list[Range | LayerRange]:
        """The ranges in the annotation."""
        return self._type[1]

    def accepts(self, value: Any) -> bool:
        """Return whether a value is of this type."""
        return self.annotation is None or _is_of_type(value, self._type[0])

    @property
    def has_lists(self) -> bool:
        """True if a list may be of this type."""
        return self._item is not None

    def read(self, value: Any) -> Any:
        """Return the value that plain text stands for under this type; other values stay as they are.

        Where text is allowed it is taken as typed. A list is `[a,b]`; one item may stand without brackets. Text that
        cannot be read is no value of this type.
        """
        if isinstance(value, list):
            return [(self._item or ANYTHING).read(item) for item in value]
        if isinstance(value, dict):
            return {str(key): ANYTHING.read(item) for key, item in value.items()}
        if not isinstance(value, PlainText):
            return value
        return next(filter(self.accepts, self._candidates(value)), next(iterate_numbers(value), str(value)))

    def _candidates(self, text: PlainText) -> Iterator[Any]:
        """Yield the values that text may stand for; the first one of this type is meant."""
        yield from iterate_scalars(text)
        if text.startswith("["):
            with suppress(ValueError):
                yield self.read(parse_plain(text))
        yield str(text)
        if self._item and not text.startswith("[") and "," not in text:
            yield [self._item.read(text)]

    @cached_property
    def _item(self) -> "Argument | None":
        """Items of a list of this type; None if it has no lists."""
        annotation = _find_item(self._type[0])
        return annotation and Argument(annotation, None, True)

    def find_problem(self, value: Any, arguments: Mapping[str, Any]) -> str | None:
        """Return the half sentence about a value of another type, or out of range beside the other arguments."""
        if not self.accepts(value):
            return f"must be {self.kind}, not {reprlib.repr(value)}"
        resolved = filter(None, (limits.resolve(arguments) for limits in self.ranges))
        return next(filter(None, (limits.find_problem(value) for limits in resolved)), None)


ANYTHING = Argument(None, None, False)


def parse_type(text: str) -> Argument:
    """Return a type as it is written, such as `list[str]`."""
    return Argument(ast.parse(text, mode="eval").body, None, True)


class _Separation(ast.NodeTransformer):
    """Separation of an annotation into its type and the ranges of its numbers."""

    def __init__(self):
        self.ranges: list[Range | LayerRange] = []

    def visit_Name(self, node: ast.Name) -> ast.expr:
        if node.id not in ALIASES:
            return node
        kind, *metadata = get_args(ALIASES[node.id])
        self.ranges += metadata
        return ast.Name(kind.__name__)

    def visit_Subscript(self, node: ast.Subscript) -> ast.expr:
        if ast.unparse(node.value).rpartition(".")[2] != "Annotated":
            return self.generic_visit(node)
        kind, *metadata = node.slice.elts
        self.ranges += [_build_range(call) for call in metadata if _is_range(call)]
        return self.visit(kind)


def _is_range(node: ast.expr) -> bool:
    return isinstance(node, ast.Call) and ast.unparse(node.func) in RANGES


def _build_range(call: ast.Call) -> Range | LayerRange:
    options = {keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords}
    return RANGES[ast.unparse(call.func)](*map(ast.literal_eval, call.args), **options)


def _find_item(kind: ast.expr | None) -> ast.expr | None:
    """Return the annotation of the items of the first list or tuple in an annotation."""
    match kind:
        case ast.BinOp(left=left, right=right):
            return _find_item(left) or _find_item(right)
        case ast.Constant(value=str() as annotation):
            return _find_item(ast.parse(annotation, mode="eval").body)
        case ast.Subscript(value=ast.Name(id="dict" | "Literal")):
            return None
        case ast.Subscript(slice=item):
            return item.elts[0] if isinstance(item, ast.Tuple) else item
    return None


def _is_of_type(value: Any, kind: ast.expr) -> bool:
    """Return whether a config value is of an annotated type: scalars, unions, Literal, list, tuple."""
    match kind:
        case ast.Constant(value=None):
            return value is None
        case ast.BinOp(left=left, right=right):
            return _is_of_type(value, left) or _is_of_type(value, right)
        case ast.Name(id="float"):
            return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < math.inf
        case ast.Name(id="int"):
            return isinstance(value, int) and not isinstance(value, bool)
        case ast.Name(id="Path"):
            return isinstance(value, str)
        case ast.Name(id="Any"):
            return True
        case ast.Name(id=name):
            return type(value).__name__ == name
        case ast.Constant(value=str() as annotation):
            return _is_of_type(value, ast.parse(annotation, mode="eval").body)
        case ast.Subscript(value=ast.Name(id="dict")):
            return isinstance(value, dict)
        case ast.Subscript(value=ast.Name(id="Literal"), slice=choices):
            return value in [c.value for c in getattr(choices, "elts", [choices])]
        case ast.Subscript(slice=item):
            item = item.elts[0] if isinstance(item, ast.Tuple) else item
            return isinstance(value, (list, tuple)) and all(_is_of_type(v, item) for v in value)
    return False
