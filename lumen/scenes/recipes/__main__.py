"""Command line of the recipes: python -m lumen.scenes.recipes NAME [key=value ...]."""

import os
import sys
from collections.abc import Callable
from importlib import import_module
from inspect import signature
from pathlib import Path
from types import NoneType
from typing import Any, get_args

from lumen.core.errors import BadConfig, Mistake, UnknownName, suggestion
from lumen.scenes.recipes import NAMES, weights_subdirectory

# Read when torch loads. Threads that spin without end while they wait slow a shared machine down tenfold; threads that
# sleep at once slow an idle one down by a third.
os.environ.setdefault("GOMP_SPINCOUNT", "2000")


def main(arguments: list[str]) -> int:
    """Run one recipe and return the exit code; flags are the arguments of its `train`."""
    try:
        name, *flags = arguments or [""]
        if name not in NAMES:
            raise UnknownName(f"no recipe is called '{name}'; {suggestion(name, NAMES)}")
        train = import_module(f"lumen.scenes.recipes.{name}").train
        for metric, value in train(**_parse_flags(name, train, flags)).items():
            print(f"{metric}: {value}")
    except Mistake as mistake:
        print(mistake, file=sys.stderr)
        return 2
    return 0


def _parse_flags(name: str, train, flags: list[str]) -> dict[str, Any]:
    from lumen.features.pretrained import SCENES_WEIGHTS

    types = {key: _flag_type(parameter.annotation) for key, parameter in signature(train).parameters.items()}
    options: dict[str, Any] = {"out": SCENES_WEIGHTS / weights_subdirectory(name), "work": Path("runs/recipes")}
    for flag in flags:
        key, _, value = flag.partition("=")
        if key not in types:
            raise BadConfig(f"recipe {name}: there is no key '{key}'; {suggestion(key, types)}")
        try:
            options[key] = types[key](value)
        except ValueError:
            raise BadConfig(f"recipe {name}: {key} is '{value}', not a number; give {key}=NUMBER.") from None
    return options


def _flag_type(annotation: Any) -> Callable[[str], Any]:
    """Return the type of a flag's value, which an annotation may join with None."""
    return next(kind for kind in get_args(annotation) or (annotation,) if kind is not NoneType)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
