"""Model card beside the weights: the network, the command that trained it, and its metrics."""

from collections.abc import Callable
from pathlib import Path

from torch import nn

from lumen.core.files import write

CARD = """\
---
license: apache-2.0
---
# {title}

Trained on the train seeds of LUMEN's `scenes` alone, by

    python -m lumen.scenes.recipes {command}

If `minutes` ended the training, a faster machine makes more steps. {parameters:,} parameters, stored in half precision.

| | |
|---|---|
{rows}

{notes}"""


def write_card(
    directory: Path, summary: str, command: str, networks: list[nn.Module], metrics: dict, notes: str
) -> None:
    """Write directory/README.md.

    Args:
        summary: Docstring of the recipe; its first line is the title.
        command: Name and flags of the recipe.
        networks: Networks whose parameters are counted.
        metrics: Rows of the table.
        notes: Advice for the next training.
    """
    title = summary.splitlines()[0].rstrip(".")
    rows = "\n".join(f"| {name} | {value} |" for name, value in metrics.items())
    parameters = sum(p.numel() for network in networks for p in network.parameters())
    text = CARD.format(title=title, command=command, parameters=parameters, rows=rows, notes=notes)
    write(directory / "README.md", text)


def evaluate_held_out(evaluate: Callable[[str], dict[str, float]]) -> dict[str, float]:
    """Return the metrics of the val and of the test seeds, each under a name with its split."""
    metrics = [(name, split, value) for split in ("val", "test") for name, value in evaluate(split).items()]
    return {f"{name}, {split} seeds": round(value, 4) for name, split, value in metrics}
