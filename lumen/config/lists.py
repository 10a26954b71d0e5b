"""Lists of values on the command line, of which each is typed as it would be by itself."""

import json
from typing import Any

from lumen.core.plain_text import PlainText, parse_plain


def read_values(text: str) -> list[str]:
    """Return the values in `[a,b]` or `a,b`. Text without brackets and commas is one value.

    A value in quotes may hold commas. A value that is a list itself keeps its brackets.

    Raises:
        ValueError: The text is no list of values.
    """
    if not text.startswith("[") and "," not in text:
        return [text]
    content = parse_plain(text if text.startswith("[") else f"[{text}]")
    if not isinstance(content, list) or not content:
        raise ValueError("it is no list of values")
    return [str(value) if isinstance(value, str) else _format(value) for value in content]


def format_values(values: list[str]) -> str:
    """Return the text that `read_values` reads as these values, without brackets and quotes where none are needed."""
    text = ",".join(value if _is_plain(value) else json.dumps(value, ensure_ascii=False) for value in values)
    return f"[{text}]" if any(value.startswith("[") for value in values) else text


def sort_values(override: str) -> str:
    """Return an override with the values of its list in one order, whatever order they were typed in."""
    key, _, text = override.partition("=")
    try:
        values = read_values(text)
    except ValueError:
        return override
    return override if len(values) == 1 else f"{key}={format_values(sorted(values))}"


def holds_lists(text: str) -> bool:
    """Return whether text is a list of lists, as in `[[a],[b,c]]`."""
    try:
        return any(value.startswith("[") for value in read_values(text)) and text.startswith("[")
    except ValueError:
        return False


def _is_plain(text: str) -> bool:
    """Return whether a value means itself without quotes; a list keeps its brackets."""
    try:
        return text.startswith("[") or read_values(f"[{text}]") == [text]
    except ValueError:
        return False


def _format(value: Any) -> str:
    """Return a value as it is typed within brackets."""
    if value is None:
        return "null"
    if isinstance(value, list):
        return f"[{','.join(map(_format, value))}]"
    if not isinstance(value, str):
        raise ValueError("it holds keys and values")
    return value if isinstance(value, PlainText) else f'"{value}"'
