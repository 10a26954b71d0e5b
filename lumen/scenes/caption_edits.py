"""What a caption may ask for instead: another sky, another ground, other colours; the layout of the picture stays."""

from collections.abc import Iterable
from typing import Any

from lumen.scenes.objects import COLOURS
from lumen.scenes.questions import LEAVES
from lumen.scenes.world import GROUNDS, SKIES


def edited(graph: dict[str, Any], edit: str) -> dict[str, Any]:
    """The graph with its "sky", its "ground" or the "colour" of every thing replaced by the next: never by its own."""
    if edit != "colour":
        return graph | {edit: _next({"sky": SKIES, "ground": GROUNDS}[edit], graph[edit])}
    objects = [
        thing | {"colour": _next(LEAVES if thing["kind"] == "tree" else COLOURS, thing["colour"])}
        for thing in graph["objects"]
    ]
    return graph | {"objects": objects}


def _next(names: Iterable[str], name: str) -> str:
    names = list(names)
    return names[(names.index(name) + 1) % len(names)]
