"""What a verb is, and what verbs ask of their words and flags."""

from collections.abc import Callable

from lumen.core.errors import BadConfig, UnknownName

Verb = Callable[[list[str], dict[str, str]], int]
VERBS: dict[str, Verb] = {}


def verb(name: str) -> Callable[[Verb], Verb]:
    """Makes a function the verb `name`; its docstring is the verb's help."""

    def add(function: Verb) -> Verb:
        VERBS[name] = function
        return function

    return add


def one(words: list[str], what: str, asking: Verb) -> str:
    """The only word of a command."""
    if len(words) != 1:
        got = f"not {len(words)}: {', '.join(map(repr, words))}" if words else "none was given"
        raise UnknownName(f"one {what} is needed, {got}; write: {usage(asking)}.")
    return words[0]


def strings(flags: dict[str, str]) -> list[str]:
    """Flags as they were typed."""
    return [f"{key}={value}" for key, value in flags.items()]


def whole(name: str, text: str) -> int:
    """A flag that counts something."""
    if not text.isdecimal() or int(text) == 0:
        raise BadConfig(f"{name} must be a whole number above 0, not '{text}'.")
    return int(text)


def usage(function: Verb, explained: bool = False) -> str:
    """How a verb is typed, or its whole line of help."""
    return function.__doc__ if explained else function.__doc__.partition(": ")[0]
