"""Lists of values on the command line."""

import pytest

from lumen.config.lists import format_values, holds_lists, read_values


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("a", ["a"]),
        ("a,b", ["a", "b"]),
        ("[a, b]", ["a", "b"]),
        ("010,1e-3,null", ["010", "1e-3", "null"]),
        ("'a, b',c", ["a, b", "c"]),
        ("[[2,5],[8]]", ["[2,5]", "[8]"]),
        ('[["a,b",c]]', ['["a,b",c]']),
        ("a b", ["a b"]),
    ],
)
def test_list_of_values_is_read_as_each_would_be_typed(text, values):
    assert read_values(text) == values
    assert holds_lists(text) == text.startswith("[[")
    assert read_values(format_values(values)) == values


@pytest.mark.parametrize("text", ["a,,b", "[a", "[]", "{a: b},c", "a: b,c", "[*a]"])
def test_list_of_values_that_cannot_be_read_is_refused(text):
    with pytest.raises(ValueError, match=r"\w"):
        read_values(text)
