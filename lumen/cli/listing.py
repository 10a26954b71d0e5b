"""Lists of components, experiments, tables and keys."""

from lumen.cli.kinds import KINDS, argument_prefix, kind_names
from lumen.config.experiment import list_experiments
from lumen.config.files import read_title
from lumen.core.errors import UnknownName, short_suggestion
from lumen.sweeps.specs import table_names


def list_all() -> str:
    """Return all names that a config may use, with the names of their arguments."""
    lines = []
    for kind, registry in KINDS.items():
        lines.append(f"{kind}=")
        for name in registry.names():
            prefix = argument_prefix(kind, name)
            arguments = " ".join(f"{prefix}.{argument}" for argument in registry.arguments(name))
            lines.append(f"  {name:16s} {registry.summary(name)}")
            lines += [f"{'':19s}{arguments}"] if arguments else []
    return "\n".join([*lines, f"experiments: {', '.join(list_experiments())}", f"tables: {', '.join(table_names())}"])


def list_topic(topic: str) -> str:
    """Return the components of a kind, or one component, with arguments, defaults and values.

    Raises:
        UnknownName: There is no such kind, and nothing has this name.
    """
    from lumen.cli.help import describe_component, explain, list_keys  # not at the top: the list of all needs no help

    for kind, registry in KINDS.items():
        if topic in kind_names(kind):
            return "\n\n".join(describe_component(kind, name) for name in registry.names())
    titles = {
        "experiments": {name: f"{name}.yaml" for name in list_experiments()},
        "tables": {name: f"tables/{name}.yaml" for name in table_names()},
    }
    for title, paths in titles.items():
        if topic in (title, title.removesuffix("s")):
            return "\n".join(f"{name:16s} {read_title(path)}" for name, path in paths.items())
    if topic == "keys":
        return list_keys()
    if topic not in list_topics():
        hint = short_suggestion(topic, list_topics(), "lumen list")
        raise UnknownName(f"there is no kind or name '{topic}'; {hint}")
    return explain(topic)


def list_topics() -> list[str]:
    """Return the names that `list_topic` knows, kinds in one form each."""
    components = (name for registry in KINDS.values() for name in registry.names())
    return sorted({*KINDS, "experiments", "tables", "keys", *components, *list_experiments(), *table_names()})
