"""Caption edits: another sky, another ground or other colours, while the layout of the image stays."""

from collections.abc import Iterable
from typing import Any

from lumen.scenes.objects import COLOURS
from lumen.scenes.questions import LEAF_COLOURS
from lumen.scenes.world import GROUNDS, SKIES


def edit_graph(graph: dict[str, Any], edit: str) -> dict[str, Any]:
    """Return the graph with its "sky", its "ground" or the "colour" of every object replaced by the next value."""
    if edit != "colour":
        return graph | {edit: _next_value({"sky": SKIES, "ground": GROUNDS}[edit], graph[edit])}
    objects = [
        obj | {"colour": _next_value(LEAF_COLOURS if obj["kind"] == "tree" else COLOURS, obj["colour"])}
        for obj in graph["objects"]
    ]
    return graph | {"objects": objects}


def _next_value(values: Iterable[str], value: str) -> str:
    values = list(values)
    return values[(values.index(value) + 1) % len(values)]
