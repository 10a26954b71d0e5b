"""Docstrings and types in words."""

import ast

import pytest

from lumen.core.docstrings import parse_docstring
from lumen.core.ranges import LayerRange, Range
from lumen.core.type_words import describe_range, describe_type, format_value, literal_choices

DOCSTRING = """Train a run.

    It resumes. See also: lumen eval.

    Options:
        base: Experiment to run,
            or another one.
        --print: Run nothing.

    Examples:
        lumen train scenes

        lumen train coco_stuff lr=1e-4
    """


def test_docstring_has_summary_text_and_sections():
    parts = parse_docstring(DOCSTRING)
    assert (parts.summary, parts.text) == ("Train a run.", "It resumes. See also: lumen eval.")
    assert parts.entries("Options") == {"base": "Experiment to run, or another one.", "--print": "Run nothing."}
    assert parts.sections["Examples"] == ["lumen train scenes", "lumen train coco_stuff lr=1e-4"]
    assert parts.entries("Args") == {} and parse_docstring(None).summary == ""


@pytest.mark.parametrize(
    ("annotation", "words", "choices"),
    [
        ("int", "a whole number", []),
        ("bool", "true or false", ["true", "false"]),
        ("Literal[8, 16]", "8 or 16", ["8", "16"]),
        ("Literal['tiny', 'v1', 'v2'] | None", "tiny, v1, v2 or null", ["tiny", "v1", "v2", "null"]),
        ("list[Literal['a', 'b']]", "a list of a or b", ["a", "b"]),
        ("int | list[int]", "a whole number or a list of whole numbers", []),
        ("tuple[float, ...] | None", "a list of numbers or null", ["null"]),
        ("'str | None'", "text or null", ["null"]),
        ("dict[str, Any]", "keys, values", []),
    ],
)
def test_types_are_described_in_words(annotation, words, choices):
    kind = ast.parse(annotation, mode="eval").body
    assert describe_type(kind) == words and literal_choices(kind) == choices


def test_ranges_are_described_in_words():
    assert (
        describe_range(Range(1, 10_000)) == "from 1 to 10,000"
        and describe_range(Range(1e-9, 0.5)) == "from 1e-09 to 0.5"
    )
    assert "base 12" in describe_range(LayerRange(tiny=4, base=12)) and describe_type(None) == "anything"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null"),
        (True, "true"),
        (1e-5, "1e-05"),
        ("", '""'),
        (["a", None], "[a,null]"),
        ((2, 5), "[2,5]"),
        ("x", "x"),
    ],
)
def test_values_are_written_as_they_are_typed(value, text):
    assert format_value(value) == text
