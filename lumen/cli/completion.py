"""Completion of command lines in bash, zsh and fish."""

import shlex
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

from lumen.cli.command import COMMANDS, Command
from lumen.config.experiment import list_experiments
from lumen.config.files import read_experiment, read_title
from lumen.config.keys import KEYS
from lumen.config.reference import read_reference
from lumen.config.schema import ALL_SLOTS, KEY_ALIASES, NESTED_SLOTS, SLOTS, split_key
from lumen.core.arguments import Argument
from lumen.core.registry import Registry, launchers, metrics
from lumen.core.text import is_unicode

SHELLS = ("bash", "zsh", "fish")
MAX_RUNS = 500  # run directories that are offered
Candidates = Iterator[tuple[str, str]]  # words and their descriptions


def shell_script(shell: str) -> str:
    """Return the script that a shell sources for completion."""
    return (files("lumen.cli") / "shells" / f"lumen.{shell}").read_text(encoding="utf-8")


def complete(line: str) -> list[str]:
    """Return the words that may stand at the end of a command line, each with a tab and a description.

    Args:
        line: Command line up to the cursor.
    """
    *words, last = _split(line) or [""]
    candidates = _LineCompletion(words[1:]).candidates(last) if words else ()
    unique = {word: text for word, text in candidates if word.startswith(last) and is_unicode(word)}
    return [f"{word}\t{' '.join(text.split())}" for word, text in unique.items()]


def _split(line: str) -> list[str]:
    """Return the words of a line as a shell has them; the last one may be empty, or within a quotation.

    There are none if the line ends in a backslash.
    """
    for end in ("", "'", '"'):
        try:
            words = shlex.split(line + end)
        except ValueError:
            continue
        return words if words and not (line[-1:].isspace() and not end) else [*words, ""]
    return []


class _LineCompletion:
    """Completion of the last word of a command line.

    Args:
        words: Words between `lumen` and the last one.
    """

    def __init__(self, words: list[str]):
        self.words = [word for word in words if not word.startswith("-")]
        self.command: Command | None = COMMANDS.get(" ".join(self.words[:2])) or COMMANDS.get(" ".join(self.words[:1]))
        after = self.words[len(self.command.verb.split()) :] if self.command else []
        self.positionals = [word for word in after if "=" not in word]
        self.settings = dict(word.split("=", 1) for word in after if "=" in word)

    def candidates(self, last: str) -> Candidates:
        """Yield words that may stand last."""
        key, equals, value = last.partition("=")
        if self.command is None or not self.positionals:
            yield from self._verbs()
        if self.command is None:
            return
        if equals and not key.replace(".", "").isidentifier():
            yield from self._places()  # such as runs/scenes/lr=0.001/seed0
        elif equals:
            *items, _ = value.split(",")
            beginning = ",".join([*items, ""]) if items else "[" * value.startswith("[")
            yield from ((f"{key}={beginning}{word}", text) for word, text in self._values(key))
        elif last.startswith("-"):
            yield from ((option, "") for option in self.command.options if option.startswith("-"))
            yield from (("--help", "explain this verb"), ("-q", "print only results"), ("-v", "print more"))
        else:
            yield from self._places()
            if last or len(self.positionals) >= len(self.command.placeholders):
                yield from self._keys(last)

    def _verbs(self) -> Candidates:
        """Yield verbs; after the first word of two, the second ones."""
        group = self.words[: 1 if self.command is None or " " not in self.command.verb else 2]
        for verb, command in COMMANDS.items():
            first, *second = verb.split()
            if not group or (second and group == [first]):
                yield (second[0] if group else first), command.help if group or not second else command.group

    def _places(self) -> Candidates:
        """Yield what may stand in the next place of the grammar."""
        places = self.command.placeholders
        place = places[min(len(self.positionals), len(places) - 1)] if places else ""
        if len(self.positionals) < len(places) or places[-1:] == ["..."]:
            for kind in (places[0] if place == "..." else place).split("|"):
                yield from _fill_place(kind)
        if self.command.verb in ("help", "list") and not self.positionals:
            yield from _topics(self.command.verb)

    def _keys(self, last: str) -> Candidates:
        """Yield options and, where the verb takes them, keys of the config and of the chosen components."""
        for key, value in self.command.options.items():
            if not key.startswith("-"):
                yield f"{key}=", self.command.documentation.entries("Options").get(key, value)
        if "launcher" in self.command.options:
            chosen = {self.settings.get("launcher")} & {*launchers.names()}
            for name in sorted(chosen or launchers.names()):
                yield from ((f"{name}.{argument}=", "") for argument in launchers.arguments(name))
        if not self.command.takes_settings:
            return
        yield from ((f"{name}=", key.comment) for name, key in read_reference().items())
        yield from ((f"{name}=", f"short for {key}") for name, key in KEY_ALIASES.items())
        slot, _ = split_key(last)
        if slot in ALL_SLOTS and slot != last:
            yield from self._argument_keys(slot, ALL_SLOTS[slot], self._component(slot))
        if slot == "metrics" != last:
            for name in metrics.names():
                yield from self._argument_keys(f"metrics.{name}", metrics, name)

    def _argument_keys(self, prefix: str, registry: Registry, name: str) -> Candidates:
        if name in registry.names():
            texts = registry.documentation(name).entries("Args")
            for argument, kind in registry.arguments(name).items():
                yield f"{prefix}.{argument}=", texts.get(argument, kind.kind)

    def _component(self, slot: str) -> str:
        """Return the component that the line, its experiment or base.yaml puts into a slot."""
        chosen = self.settings.get(slot) or self.settings.get(f"{slot}.name")
        if slot in NESTED_SLOTS:
            return str(chosen)
        experiment = self.settings.get("base") or next(iter(self.positionals), "")
        for name in (experiment if experiment in list_experiments() else "base", "base"):
            value = read_experiment(name).get(slot)
            chosen = chosen or (value.get("name") if isinstance(value, dict) else value)
        return str(chosen)

    def _values(self, key: str) -> Candidates:
        """Yield the values of a key, as far as they can be listed."""
        slot, argument = split_key(KEY_ALIASES.get(key, key))
        if key in self.command.options:
            yield from self._option_values(key)
        elif slot in ALL_SLOTS and argument in ("", "name"):
            yield from ((name, ALL_SLOTS[slot].summary(name)) for name in ALL_SLOTS[slot].names())
        elif key == "metrics":
            yield from ((name, metrics.summary(name)) for name in metrics.names())
        elif kind := self._type(slot, argument, KEY_ALIASES.get(key, key)):
            yield from ((choice, "") for choice in kind.choices)

    def _option_values(self, key: str) -> Candidates:
        """Yield the values of one of the verb's own options, by the placeholder or the choices in its grammar."""
        value = self.command.options[key]
        if key == "launcher":
            yield from ((name, launchers.summary(name)) for name in launchers.names())
        elif key in ("metric", "metrics"):
            yield from _fill_place("METRIC")
        elif key == "rows":
            yield from ((row, "") for row in _rows(self.positionals[:1]))
        elif "|" in value and value.islower():
            yield from ((choice, "") for choice in value.split("|"))
        else:
            yield from _fill_place(value)

    def _type(self, slot: str, argument: str, key: str) -> Argument | None:
        """Return the type of a key."""
        if key in KEYS:
            return KEYS[key]
        registry, name = ALL_SLOTS.get(slot), ""
        if slot == "metrics":
            registry, (name, _, argument) = metrics, argument.partition(".")
        elif registry is not None:
            name = self._component(slot)
        elif slot in launchers.names():
            registry, name = launchers, slot
        is_known = registry is not None and name in registry.names()
        return registry.arguments(name).get(argument) if is_known else None


def _fill_place(place: str) -> Candidates:
    """Yield what a placeholder may stand for. Paths are left to the shell, except for those of runs."""
    if place == "EXPERIMENT":
        yield from ((name, read_title(f"{name}.yaml")) for name in list_experiments())
    elif place == "TABLE":
        yield from _tables()
        yield from _fill_place("EXPERIMENT")  # of which lists of values make a table
    elif place in ("NAME", "DATASET"):
        yield from ((name, SLOTS["data"].summary(name)) for name in SLOTS["data"].names())
    elif place == "METRIC":
        yield from ((name, metrics.summary(name)) for name in metrics.names())
    elif place == "SHELL":
        yield from ((shell, "") for shell in SHELLS)
    elif place == "RUN":
        yield from ((str(run), "run") for run in _runs())
    elif place.islower() and place.isidentifier():
        yield place, ""


def _tables() -> Candidates:
    from lumen.sweeps.specs import table_names

    yield from ((name, read_title("tables", f"{name}.yaml")) for name in table_names())


def _rows(tables: list[str]) -> list[str]:
    from lumen.sweeps.specs import read_rows, table_names

    return [row for table in tables if table in table_names() for row in read_rows(table)]


def _runs() -> list[Path]:
    """Return the directories of runs below runs/, the newest first."""
    configs = Path("runs").glob("*/*/seed*/config.yaml")
    newest = sorted(configs, key=lambda path: path.stat().st_mtime, reverse=True)
    return [path.parent for path in newest[:MAX_RUNS]]


def _topics(verb: str) -> Candidates:
    from lumen.cli.help import topics
    from lumen.cli.listing import list_topics

    yield from ((topic.partition(" ")[0], "") for topic in (topics() if verb == "help" else list_topics()))
