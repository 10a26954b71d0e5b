"""Keys of a config and their types, by which what is typed is read."""

import inspect
from collections.abc import Iterator
from dataclasses import is_dataclass
from types import NoneType, UnionType
from typing import Union, get_args, get_origin, get_type_hints

from lumen.config.schema import ALL_SLOTS, SLOTS, Config
from lumen.core.arguments import Argument, parse_type


def iterate_keys(schema: type, prefix: str = "") -> Iterator[tuple[str, Argument]]:
    """Yield the type of each value of a schema by its dotted key."""
    for name, hint in get_type_hints(schema).items():
        if is_dataclass(hint):
            yield from iterate_keys(hint, f"{prefix}{name}.")
        else:
            members = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
            names = (
                "None" if member is NoneType else inspect.formatannotation(member).replace("typing.", "")
                for member in members
            )
            yield f"{prefix}{name}", parse_type(" | ".join(names))


NAME_KEYS = {f"{slot}.name" for slot in ALL_SLOTS}
KEYS = dict(iterate_keys(Config)) | dict.fromkeys((*SLOTS, *NAME_KEYS), parse_type("str"))
KEYS["metrics"] = parse_type("str | list[str]")
