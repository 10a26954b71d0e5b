"""Registration of commands, and parsers of their arguments."""

import os
import re
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import zip_longest
from typing import Any

from lumen.config.keys import KEYS
from lumen.config.schema import Config
from lumen.core.arguments import parse_type
from lumen.core.docstrings import Docstring, parse_docstring
from lumen.core.errors import BadConfig, UnknownName
from lumen.core.plain_text import PlainText

Function = Callable[[list[str], dict[str, str]], int]
# Placeholders of a grammar that may stand for a path, with the test of its existence, and the one of a prompt.
PATHS = {"RUN": os.path.isdir, "PHOTO": os.path.isfile, "DATASET": os.path.exists}
PATHS["RUN|PHOTO"] = lambda word: os.path.isfile(word) or os.path.isfile(os.path.join(word, "config.yaml"))
PROMPT = "a prompt"
SETTINGS = "key"  # stands in a grammar for any key of a config
PLACEHOLDERS = {
    "EXPERIMENT": "an experiment by name (`lumen list experiments`), or the path of its YAML file",
    "TABLE": "a table by name (`lumen list tables`), or an experiment with lists of values, as in backbone=dino,clip",
    "RUN": "directory of a run, such as runs/scenes/default/seed0",
    "PHOTO": "path of an image file",
    "ID": "id of an image of the data set",
    "NAME": "a data set by name (`lumen list data`)",
    "DATASET": "a data set by name, or a folder of photos",
    "OUT": "path of what is written",
    "FILE": "path of a file",
    "DIR": "path of a directory",
    "METRIC": "a metric by name (`lumen list metrics`)",
    PROMPT: "text that says what the images show",
}


@dataclass(frozen=True)
class Command:
    """Command of `lumen`.

    Attributes:
        verb: One or two words, such as "data check".
        arguments: Grammar of its arguments.
        function: Function of positional arguments and options (`key=value`, `--flag`), which returns the exit code.
    """

    verb: str
    arguments: str
    function: Function

    def __call__(self, positionals: list[str], options: dict[str, str]) -> int:
        """Run the command, and return its exit code."""
        return self.function(positionals, options)

    @property
    def usage(self) -> str:
        """Command line with all arguments."""
        return f"lumen {self.verb} {self.arguments}".rstrip()

    @property
    def help(self) -> str:
        """First line of the function's docstring."""
        return self.documentation.summary

    @cached_property
    def documentation(self) -> Docstring:
        """Docstring of the function; its sections are Options, Examples and Returns."""
        return parse_docstring(self.function.__doc__)

    @property
    def group(self) -> str:
        """Title of the commands that it is listed with: the docstring of its module, up to the colon."""
        return sys.modules[self.function.__module__].__doc__.partition(":")[0]

    @property
    def options(self) -> dict[str, str]:
        """Example or placeholder of each option's value, by key; a flag has none."""
        words = shlex.split(re.sub(r"[\[\]]", " ", self.arguments[len(self.arguments.partition("[")[0]) :]))
        settings = (word.partition("=") for word in words if word.startswith("--") or _is_setting(word))
        return {key: value for key, _, value in settings if key != SETTINGS}

    @property
    def takes_settings(self) -> bool:
        """True if any key of a config is an option."""
        return f"{SETTINGS}=" in self.arguments

    @property
    def placeholders(self) -> list[str]:
        """Placeholders of the positional arguments."""
        return shlex.split(self.arguments.partition("[")[0])

    def split(self, words: list[str]) -> tuple[list[str], dict[str, str]]:
        """Return positional arguments and options. A word such as `lr=1` is an option, unless a place needs it.

        Raises:
            BadConfig: The command has no such flag.
        """
        positionals, options = [], {}
        num_places = len(self.placeholders) - sum(not _is_setting(word) for word in words if not word.startswith("--"))
        for word, following in zip_longest(words, words[1:], fillvalue=""):
            key, _, value = word.partition("=")
            if word.startswith("--"):
                if not self.accepts_flag(word):
                    raise BadConfig(f"lumen {self.verb} has no option {word!r}; {self._advice(word, following)}")
                options[word] = ""
            elif not _is_setting(word):
                positionals.append(word)
            elif self._is_positional(word, len(positionals), num_places):
                positionals.append(word)
                num_places -= 1
            else:
                options[key] = value
        return positionals, options

    def _is_positional(self, word: str, position: int, num_places: int) -> bool:
        """Return whether a word such as `img=1.jpg` is a path or a prompt.

        Args:
            position: Number of positional arguments before it.
            num_places: Number of places that other words do not fill.
        """
        placeholders = self.placeholders
        if "..." in placeholders:
            return PATHS[placeholders[0]](word)
        if num_places <= 0 or position >= len(placeholders):
            return False
        placeholder, (key, _, value) = placeholders[position], word.partition("=")
        has_key = key.partition(".")[0] in Config.__annotations__ or re.search(rf"\b{key}=", self.arguments)
        if placeholder == PROMPT:
            return not has_key or ("." not in key and " " in value)
        return placeholder in PATHS and (not has_key or PATHS[placeholder](word))

    def _advice(self, flag: str, following: str) -> str:
        """Return the half sentence on how to write a flag that other programs would take, such as `--lr 1e-3`."""
        key, _, value = flag.removeprefix("--").partition("=")
        key = key.replace("-", "_")
        if key in self.options or (self.takes_settings and key in KEYS):
            is_value = following and not following.startswith("--") and not _is_setting(following)
            return f"write {key}={value or (following if is_value else 'VALUE')}."
        return "settings are written key=value, as in lr=1e-3."

    def accepts_flag(self, flag: str) -> bool:
        """Return whether the grammar has a flag such as `--print`."""
        return flag in self.arguments.replace("[", " ").replace("]", " ").split()


def _is_setting(word: str) -> bool:
    """Return whether a word has the form key=value."""
    key, equals, _ = word.partition("=")
    return bool(equals) and key.replace(".", "").isidentifier()


COMMANDS: dict[str, Command] = {}


def command(verb: str, arguments: str = "") -> Callable[[Function], Command]:
    """Register a function as a command; the first line of its docstring is the help text."""

    def register(function: Function) -> Command:
        COMMANDS[verb] = Command(verb, arguments, function)
        return COMMANDS[verb]

    return register


def single_argument(positionals: list[str], placeholder: str, caller: Command) -> str:
    """Return the only positional argument of a command.

    Raises:
        UnknownName: There is none, or more than one.
    """
    if len(positionals) != 1:
        count = f"not {len(positionals)}: {', '.join(map(repr, positionals))}" if positionals else "none was given"
        raise UnknownName(f"one {placeholder} is needed, {count}; write: {caller.usage}.")
    return positionals[0]


def as_overrides(options: dict[str, str]) -> list[str]:
    """Return options as they were typed."""
    return [f"{key}={value}" for key, value in options.items()]


def read_option(key: str, text: str, kind: str) -> Any:
    """Return the value of an option of a type, such as `Annotated[int, Range(1, 8)]` or `list[str]`.

    Raises:
        BadConfig: It is not of this type.
    """
    argument = parse_type(kind)
    value = argument.read(PlainText(text))
    if problem := argument.find_problem(value, {}):
        raise BadConfig(f"{key} {problem}.")
    return value


def read_names(key: str, text: str) -> list[str]:
    """Return the names in `[a,b]` or `a,b`."""
    return read_option(key, text if text.startswith("[") else f"[{text}]", "list[str]")


def positive_int(key: str, text: str, high: int = 1_000_000) -> int:
    """Return the value of an option that counts something."""
    return read_option(key, text, f"Annotated[int, Range(1, {high})]")
