"""Registration of commands, and parsers of their arguments."""

from collections.abc import Callable
from dataclasses import dataclass

from lumen.core.errors import BadConfig, UnknownName

Function = Callable[[list[str], dict[str, str]], int]


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
        return self.function.__doc__.partition("\n")[0]

    def accepts_flag(self, flag: str) -> bool:
        """Return whether the grammar has a flag such as `--print`."""
        return flag in self.arguments.replace("[", " ").replace("]", " ").split()


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


def positive_int(key: str, text: str) -> int:
    """Return the value of an option that counts something.

    Raises:
        BadConfig: It is no whole number above 0.
    """
    if not text.isdecimal() or int(text) == 0:
        raise BadConfig(f"{key} must be a whole number above 0, not '{text}'.")
    return int(text)
