"""Kinds of components, as the command line names them."""

from lumen.config.schema import ALL_SLOTS, REGISTRIES
from lumen.core.registry import Registry, launchers

KINDS: dict[str, Registry] = REGISTRIES | {"launcher": launchers}


def kind_names(kind: str) -> set[str]:
    """Return the names of a kind: its key, its package and the word for it, in singular and plural."""
    registry = KINDS[kind]
    words = {kind, registry.package.rpartition(".")[2], registry.noun, registry.noun.replace(" ", "")}
    return {form for word in words for form in (word, f"{word}s", word.removesuffix("s"))}


def argument_prefix(kind: str, name: str) -> str:
    """Return the beginning of the keys of a component's arguments."""
    return kind if kind in ALL_SLOTS else name if kind == "launcher" else f"{kind}.{name}"
