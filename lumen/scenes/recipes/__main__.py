"""The command: python -m lumen.scenes.recipes NAME [key=value ...]."""

import os
import sys
from importlib import import_module
from inspect import signature
from pathlib import Path

from lumen.core.errors import BadConfig, Mistake, UnknownName, known
from lumen.scenes.recipes import NAMES, home

# Read when torch loads: threads that wait by spinning without end slow a shared machine down tenfold,
# threads that sleep at once a quiet one by a third.
os.environ.setdefault("GOMP_SPINCOUNT", "2000")


def main(words: list[str]) -> int:
    """Runs one recipe; flags are the arguments of its `train`."""
    try:
        name, *flags = words or [""]
        if name not in NAMES:
            raise UnknownName(f"no recipe is called '{name}'; {known(name, NAMES)}")
        from lumen.features.pretrained import SCENES

        train = import_module(f"lumen.scenes.recipes.{name}").train
        types = {key: parameter.annotation for key, parameter in signature(train).parameters.items()}
        given: dict = {"out": SCENES / home(name), "work": Path("runs/recipes")}
        for flag in flags:
            key, _, value = flag.partition("=")
            if key not in types:
                raise BadConfig(f"recipe {name}: '{key}' is no key of it; {known(key, types)}")
            try:
                given[key] = types[key](value)
            except ValueError:
                raise BadConfig(f"recipe {name}: {key} is '{value}', not a number; give {key}=NUMBER.") from None
        for figure, value in train(**given).items():
            print(f"{figure}: {value}")
    except Mistake as mistake:
        print(mistake, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
