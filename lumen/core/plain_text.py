"""Plain text of settings, as it is typed: the type of its key decides what it stands for."""

import re
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from typing import Any

import yaml

from lumen.core.readers import parse_yaml
from lumen.core.text import escape

TRUTH = dict.fromkeys(("true", "yes", "on"), True) | dict.fromkeys(("false", "no", "off"), False)  # as in YAML 1.1
MERGE = "tag:yaml.org,2002:merge"
TAGS = [MERGE, *(f"tag:yaml.org,2002:{name}" for name in ("null", "str", "seq", "map"))]


class PlainText(str):
    """Text of an override, or of a YAML file outside of quotes."""


class PlainLoader(yaml.SafeLoader):
    """Loader of YAML whose scalars outside of quotes stay text, but for `null`. Aliases and merge keys work."""

    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag in TAGS]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    # The constructor without a tag refuses all other tags.
    yaml_constructors = {tag: yaml.SafeLoader.yaml_constructors[tag] for tag in (None, *TAGS) if tag != MERGE}

    def construct_yaml_str(self, node: yaml.ScalarNode) -> str:
        """Return a scalar; PlainText unless it is in quotes."""
        return node.value if node.style else PlainText(node.value)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        """Return a mapping, in which no key stands twice."""
        counts = Counter(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode))
        if repeated := [key for key, count in counts.items() if count > 1]:
            raise yaml.YAMLError(f"'{min(repeated)}' stands twice in line {node.start_mark.line + 1} or below")
        return super().construct_mapping(node, deep)


PlainLoader.add_constructor("tag:yaml.org,2002:str", PlainLoader.construct_yaml_str)


def parse_plain(text: str) -> Any:
    """Return the content of YAML text.

    Raises:
        ValueError: It is no YAML.
    """
    try:
        return parse_yaml(text, PlainLoader)
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(str(error)) from None


def iterate_scalars(text: str) -> Iterator[Any]:
    """Yield what text may stand for where text itself is not allowed: none, a truth value, numbers.

    `'null'` in quotes is the word.
    """
    if text in ("", "null"):
        yield None
    if text in ("'null'", '"null"'):
        yield "null"
    if text.lower() in TRUTH:
        yield TRUTH[text.lower()]
    yield from iterate_numbers(text)


def iterate_numbers(text: str) -> Iterator[int | float]:
    """Yield the numbers that text may stand for, such as 10 for 010, 16 for 0x10, and 0.5 for .5."""
    for convert in (int, partial(int, base=0), float):
        with suppress(ValueError):
            yield convert(text)


def mark_plain(value: Any) -> Any:
    """Return text, or a list with texts, as PlainText."""
    if isinstance(value, list):
        return [mark_plain(item) for item in value]
    return PlainText(value) if isinstance(value, str) else value


def find_refusal(value: Any, default: Any = None) -> str | None:
    """Return the reason why a text, or a list with one, cannot stand in a config; None if it can."""
    if isinstance(value, list | tuple):
        return next(filter(None, map(find_refusal, value)), None)
    if not isinstance(value, str):
        return None
    if value == "" and default != "":
        return "it is empty; write a value, or leave it out"
    if value == "???":
        return "this stands for a value that is missing; write another one"
    if variable := re.search(r"\$\{[^}]*\}?", value):
        return f"nothing replaces {variable[0]}; write out what it stands for"
    if character := next((character for character in value if escape(character) != character), None):
        return f"it holds the control character U+{ord(character):04X}; leave it out"
    return None
