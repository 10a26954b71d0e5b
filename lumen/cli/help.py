"""Help on verbs, keys of a config and components, from their own docstrings, annotations and comments."""

import shutil
from collections.abc import Iterator
from textwrap import fill, shorten

from lumen.cli.command import COMMANDS, PLACEHOLDERS, PROMPT, Command
from lumen.cli.kinds import KINDS, argument_prefix
from lumen.config.experiment import list_experiments
from lumen.config.files import read_title
from lumen.config.reference import KeyReference, read_groups, read_reference
from lumen.config.schema import ALL_SLOTS, KEY_ALIASES, NESTED_SLOTS, SLOTS
from lumen.core.arguments import Argument
from lumen.core.errors import UnknownName, short_suggestion
from lumen.core.registry import Registry
from lumen.core.type_words import describe_range, format_value

MAX_WIDTH = 100  # columns of text
FOOTER = """\
lumen help VERB         arguments, options and examples of a verb; also lumen VERB --help
lumen help KEY          a key of a config, such as lr, or a group of keys, such as sampling
lumen help keys         all keys, with their defaults
lumen help NAME         a component, such as dino, or an argument, such as backbone.size
lumen list              all components
-q, -v                  with any verb: print only results and mistakes, or all that libraries say too"""


def overview() -> str:
    """Return all verbs by group, one line each."""
    groups: dict[str, list[Command]] = {}
    for command in COMMANDS.values():
        groups.setdefault(command.group, []).append(command)
    width = max(map(len, COMMANDS))
    blocks = [
        "\n".join([title, *(f"  {command.verb:{width}s}  {command.help}" for command in commands)])
        for title, commands in groups.items()
    ]
    return "\n\n".join(["usage: lumen VERB ... [key=value ...]", *blocks, FOOTER])


def explain(topic: str) -> str:
    """Return the help on everything that has a name.

    Raises:
        UnknownName: Nothing has it.
    """
    sections = list(_iterate_sections(topic))
    if not sections:
        raise UnknownName(f"there is no help on '{topic}'; {short_suggestion(topic, topics(), 'lumen help')}")
    return "\n\n".join(sections)


def list_keys() -> str:
    """Return all keys with their defaults and comments."""
    return "\n".join(map(_summarize_key, read_reference().values()))


def topics() -> list[str]:
    """Return all names that there is help on."""
    components = {name for registry in KINDS.values() for name in registry.names()}
    arguments = {f"{key}.{argument}" for key, registry in ALL_SLOTS.items() for argument in _all_arguments(registry)}
    arguments |= {f"metrics.{name}.{argument}" for name in KINDS["metrics"].names() for argument in
                  KINDS["metrics"].arguments(name)}  # fmt: skip
    keys = {*read_reference(), *read_groups(), *KEY_ALIASES, "keys"}
    return sorted({*COMMANDS, *keys, *components, *arguments, *list_experiments(), *_tables()})


def _iterate_sections(topic: str) -> Iterator[str]:
    if topic in COMMANDS:
        yield describe_command(COMMANDS[topic])
    if group := {f"lumen {verb}": command.help for verb, command in COMMANDS.items() if verb.startswith(f"{topic} ")}:
        yield _format_entries(f"commands of {topic}", group)
    if topic == "keys":
        yield list_keys()
    if topic in read_groups():
        keys = [key for name, key in read_reference().items() if name.startswith(f"{topic}.")]
        yield "\n".join([f"{topic}: {read_groups()[topic]}", *(f"  {_summarize_key(key)}" for key in keys)])
    if topic in KEY_ALIASES:
        yield f"{topic}=VALUE is short for {KEY_ALIASES[topic]}=VALUE."
    if topic in read_reference():
        yield describe_key(read_reference()[topic])
    yield from _describe_argument(topic)
    for kind, registry in KINDS.items():
        if topic in registry.names():
            yield describe_component(kind, topic)
    if topic in list_experiments():
        yield f"experiment {topic}: {read_title(topic + '.yaml')}\n  lumen show {topic}"
    if topic in _tables():
        yield f"table {topic}: {_tables()[topic]}\n  lumen ablate {topic} --print"


def describe_command(command: Command) -> str:
    """Return usage, arguments, options, examples and exit codes of a command."""
    doc = command.documentation
    parts = [f"usage: {command.usage}", doc.summary, doc.text]
    columns = {"arguments": _arguments(command), "options": _options(command)}
    parts += [_format_entries(title, entries) for title, entries in columns.items() if entries]
    if examples := doc.sections.get("Examples"):
        parts.append("\n  ".join(["examples", *examples]))
    if codes := doc.sections.get("Returns"):
        parts.append(f"exit code\n{_wrap(' '.join(codes))}")
    return "\n\n".join(filter(None, parts))


def describe_key(key: KeyReference) -> str:
    """Return default, values, effect and readers of a key."""
    facts = {"values": key.value, "effect": key.effect, "read by": ", ".join(key.readers)}
    if key.experiments:
        facts["defaults"] = ", ".join(f"{name}: {format_value(value)}" for name, value in key.experiments.items())
    if key.name in SLOTS:
        facts["values"] = f"{', '.join(SLOTS[key.name].names())} (lumen list {key.name})"
    return _format_entries(f"{key.setting}\n{_wrap(key.comment)}", facts)


def describe_component(kind: str, name: str) -> str:
    """Return the summary of a component, and its arguments with their defaults and values."""
    registry = KINDS[kind]
    doc, prefix = registry.documentation(name), argument_prefix(kind, name)
    texts = doc.entries("Args")
    entries = {
        f"{prefix}.{key}{_describe_default(argument)}": _join(_describe_values(argument), texts.get(key))
        for key, argument in registry.arguments(name).items()
    }
    return _format_entries(f"{registry.noun} {name}: {registry.summary(name)}", entries)


def _describe_argument(topic: str) -> Iterator[str]:
    """Yield the help on an argument of components, such as backbone.size or metrics.lpips.network."""
    prefix, dot, argument = topic.rpartition(".")
    for kind, registry in (KINDS | NESTED_SLOTS).items() if dot else ():
        owners = {}
        for name in registry.names():
            if prefix == argument_prefix(kind, name) and argument in registry.arguments(name):
                value, text = registry.arguments(name)[argument], registry.documentation(name).entries("Args")
                words = f"{_describe_default(value).lstrip('=')}: {_describe_values(value)}"
                owners[name] = _join(words, text.get(argument))
        if owners:
            yield _format_entries(f"{topic} of a {registry.noun}", owners)


def _arguments(command: Command) -> dict[str, str]:
    """Return the explanation of each place of a command; an optional place stands among its options."""
    places = [word for place in command.placeholders for word in place.split("|")]
    explained = command.documentation.entries("Options")
    texts = {word: explained.get(word) or PLACEHOLDERS.get(word) for word in places}
    texts |= {word: text for word, text in explained.items() if word.isupper()}
    return {f'"{word}"' if word == PROMPT else word: text for word, text in texts.items() if text}


def _options(command: Command) -> dict[str, str]:
    """Return the explanation of each option of a command: its own, that of a key of the config, or of a placeholder."""
    explained, texts = command.documentation.entries("Options"), {}
    for key, value in command.options.items():
        reference = read_reference().get(key)
        text = explained.get(key) or (reference.comment if reference else PLACEHOLDERS.get(value, ""))
        texts[f"{key}={value}" if value else key] = text
    if command.takes_settings:
        texts["key=value"] = "any key of a config: lumen help keys"
    return texts


def _summarize_key(key: KeyReference) -> str:
    return f"{key.setting:30s}  {shorten(key.comment, _width(), placeholder=' ...')}"


def _describe_default(argument: Argument) -> str:
    return "=... (must be set)" if argument.required else f"={format_value(argument.default)}"


def _describe_values(argument: Argument) -> str:
    return ", ".join([argument.kind, *map(describe_range, argument.ranges)])


def _all_arguments(registry: Registry) -> set[str]:
    return {argument for name in registry.names() for argument in registry.arguments(name)}


def _tables() -> dict[str, str]:
    from lumen.sweeps.specs import table_names

    return {name: read_title("tables", f"{name}.yaml") for name in table_names()}


def _format_entries(title: str, entries: dict[str, str]) -> str:
    """Return entries as two columns under a title."""
    width = min(30, max(map(len, entries), default=0))
    lines = [
        fill(text, _width(), initial_indent=f"  {name:{width}s}  ", subsequent_indent=" " * (width + 4))
        for name, text in entries.items()
    ]
    return "\n".join([title, *lines])


def _join(values: str, text: str | None) -> str:
    return f"{values}. {text}" if text else values


def _wrap(text: str) -> str:
    return fill(text, _width(), initial_indent="  ", subsequent_indent="  ")


def _width() -> int:
    """Return the columns of text: those of the terminal, up to a number that can be read."""
    return min(shutil.get_terminal_size((MAX_WIDTH, 24)).columns, MAX_WIDTH)
