"""The model card beside the weights: what it is, how it was made, what it reaches."""

from collections.abc import Callable
from pathlib import Path

from torch import nn

from lumen.core.files import write

CARD = """\
---
license: apache-2.0
---
# {title}

Trained on the train seeds of LUMEN's `scenes` and nothing else, by

    python -m lumen.scenes.recipes {recipe}

Where `minutes` ended it, a faster machine takes more steps. {parameters:,} parameters, stored in half precision.

| | |
|---|---|
{rows}

{learnt}"""


def card(folder: Path, summary: str, recipe: str, networks: list[nn.Module], figures: dict, learnt: str) -> None:
    """Writes folder/README.md; `learnt` says what the next one to train it should know."""
    title = summary.splitlines()[0].rstrip(".")
    rows = "\n".join(f"| {name} | {value} |" for name, value in figures.items())
    parameters = sum(p.numel() for network in networks for p in network.parameters())
    text = CARD.format(title=title, recipe=recipe, parameters=parameters, rows=rows, learnt=learnt)
    write(folder / "README.md", text)


def on_held_out(measure: Callable[[str], dict[str, float]]) -> dict[str, float]:
    """What `measure` finds on the val and on the test seeds, by names that say which."""
    found = [(name, split, value) for split in ("val", "test") for name, value in measure(split).items()]
    return {f"{name}, {split} seeds": round(value, 4) for name, split, value in found}
