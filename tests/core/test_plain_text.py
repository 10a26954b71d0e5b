"""Plain text: what it stands for depends on the type that reads it."""

import math
from itertools import pairwise

import pytest

from lumen.core.arguments import ANYTHING, parse_type
from lumen.core.plain_text import PlainText, find_refusal, parse_plain

# Text that YAML 1.1 reads as something else, or not at all.
WORDS = [
    "no",
    "yes",
    "on",
    "off",
    "y",
    "null",
    "true",
    "~",
    "0123",
    "010",
    "4e10582",
    "1e5",
    "inf",
    ".inf",
    "nan",
    "12:30",
]
WORDS += [
    "2024_01_15",
    "2024-01-15",
    "0x10",
    "1_000",
    "+1",
    ".5",
    "=",
    "<<",
    "*blurry*",
    "&a",
    "@work",
    "%x",
    "`x`",
    "{x}",
]
WORDS += [
    "[x]",
    "!wow",
    ">x",
    "|x",
    "#x",
    "-",
    "?",
    ":",
    ",",
    "'",
    '"',
    "'a'",
    '"a"',
    "''",
    "[",
    "{",
    "[a,",
    "{a",
    "b}",
]
WORDS += ["[a] photo", "> 3 people", "a # b", "a: b", 'a photo, "bad', " a ", "a\\b", "ä", "日本", "!!int 3", "&a [*a]"]


@pytest.mark.parametrize("word", WORDS)
def test_plain_text_is_taken_as_typed_where_text_is_allowed(word):
    assert parse_type("str").read(PlainText(word)) == word and type(parse_type("str").read(PlainText(word))) is str
    assert parse_type("str | None").read(PlainText(word)) == (None if word == "null" else word)
    assert parse_type("list[str]").read([PlainText(word)]) == [word]
    assert find_refusal(word) is None


@pytest.mark.parametrize("kind", ["str", "str | None", "list[str]", "int | str"])
def test_plain_text_in_quotes_is_the_word_null(kind):
    value = ["null"] if kind == "list[str]" else "null"
    assert parse_type(kind).read(PlainText("'null'")) == parse_type(kind).read(PlainText('"null"')) == value


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        ("int", "8", 8),
        ("int", "010", 10),  # YAML 1.1 reads octal numbers
        ("int", "0x10", 16),
        ("int", "1_000", 1000),
        ("int", "-0", 0),
        ("float", "1e-5", 1e-5),
        ("float", "1", 1),
        ("float", ".5", 0.5),
        ("float", "1.", 1.0),
        ("bool", "yes", True),
        ("bool", "OFF", False),
        ("int | None", "null", None),
        ("int | None", "", None),
        ("str | None", "", None),
        ("str", "", ""),
        ("Literal[8, 16]", "8", 8),
        ("Literal['off', 'on'] | None", "off", "off"),
        ("int | Literal['all']", "all", "all"),
        ("int | list[int]", "-1", -1),
        ("int | list[int]", "[2,5]", [2, 5]),
        ("list[int] | tuple[int, ...]", "[2, 5]", [2, 5]),
        ("list[int]", "5", [5]),
        ("list[str]", "[DINO, SD]", ["DINO", "SD"]),
        ("list[str]", "[no, 010]", ["no", "010"]),
        ("list[str]", "['a, b', c]", ["a, b", "c"]),
        ("list[str]", "[]", []),
        ("str | list[str]", "miou", "miou"),
        ("str | list[str]", "[miou,lpips]", ["miou", "lpips"]),
        ("Annotated[int, Range(1, 8)] | None", "7", 7),
    ],
)
def test_plain_text_is_read_by_its_type(kind, text, value):
    read = parse_type(kind).read(PlainText(text))
    assert (read, type(read)) == (value, type(value)) and parse_type(kind).accepts(read)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        *(
            ("int", text)
            for text in ("", "null", "abc", "1.5", "1e5", "12:30", "yes", "[1]", "1,2", "9" * 5000, "&a[*a]")
        ),
        *(
            ("float", text)
            for text in ("", "inf", "nan", "1e400", "1,5", "[1,", "!!python/object/apply:os.system ['id']")
        ),
        *(("list[str]", text) for text in ("[miou", "[a] b", "[[a]]", "[*a]", "[a #b]", "[" * 1000, "[a, {b: c}]")),
        *(("list[int]", text) for text in ("a", "1,", "1 2", "[1, x]", "{1}")),
        *(("bool", text) for text in ("maybe", "", "2.0")),
        ("Literal[8, 16]", "9"),
    ],
)
def test_plain_text_that_cannot_be_read_is_no_value_of_its_type(kind, text):
    argument = parse_type(kind)
    value = argument.read(PlainText(text))
    assert not argument.accepts(value) and "must be" in argument.find_problem(value, {})


def test_plain_text_of_an_unknown_type_is_read_as_yaml_would():
    texts = ["1", "1.5", "no", "null", "[a, 1]", "word"]
    assert [ANYTHING.read(PlainText(text)) for text in texts] == [1, 1.5, False, None, ["a", 1], "word"]
    assert math.isnan(ANYTHING.read(PlainText("nan")))


def test_plain_text_stands_outside_of_quotes_of_a_file():
    tree = parse_plain("a: no\nb: 'no'\nc: [1, \"2\"]\nd: null\ne: ~\nf:\ng: |\n  x\nh: &x {i: 1}\nj: {<<: *x, k: 2}\n")
    assert isinstance(tree["a"], PlainText) and isinstance(tree["c"][0], PlainText)
    assert not any(isinstance(text, PlainText) for text in (tree["b"], tree["c"][1], tree["g"]))
    assert tree["d"] is tree["e"] is tree["f"] is None and tree["j"] == {"i": "1", "k": "2"}


@pytest.mark.parametrize(
    "text",
    [
        "a: [1",
        "a: 1\na: 2",
        "a: !!python/object/apply:os.system [ls]",
        "a: !!float 3",
        "[a]: 1",
        "a: *x",
        "a: &x [*x]",
        "a: \x1b",
        "a: 'b",
        "[" * 1000,
        "a: &a [x,x,x,x,x,x,x,x,x]\n"
        + "".join(f"{b}: &{b} [{','.join([f'*{a}'] * 9)}]\n" for a, b in pairwise("abcdefghi")),
    ],
)
def test_plain_text_that_is_no_yaml_is_refused(text):
    with pytest.raises(ValueError):
        parse_plain(text)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("${DATA}/coco", r"nothing replaces ${DATA}"),
        ("/x/${oc.env:DATA}", r"${oc.env:DATA}"),
        ("a ${", "${"),
        (["a", "${B}"], "${B}"),
        ("\x1b[31mred", "U+001B"),
        ("a\x00b", "U+0000"),
        ("a\x07", "U+0007"),
        ("a\x7f", "U+007F"),
        ("a\x9b", "U+009B"),
        ("a\u202eb", "U+202E"),
        ("a\udcff", "U+DCFF"),
        ("", "empty"),
        ("???", "missing"),
    ],
)
def test_plain_text_that_no_config_can_hold_is_refused_by_name(value, words):
    assert words in find_refusal(value)
    assert find_refusal("", default="") is None and find_refusal(7) is None
