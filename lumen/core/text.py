"""Text of unknown origin: names of files may hold what steers a terminal, or what no encoding can write."""

import re

# Control characters but tab and line feed, separators and directions of lines, and halves of surrogate pairs.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def escape(text: str) -> str:
    r"""Return a text with its control characters written as in Python, such as \x1b."""
    return _CONTROL.sub(lambda match: match.group().encode("unicode_escape").decode(), text)


def escape_line(text: str) -> str:
    """Return a text as a single line without control characters."""
    return escape(text.replace("\n", r"\n"))


def is_unicode(text: str) -> bool:
    """Return whether a text can be encoded; it cannot if it holds halves of surrogate pairs."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
