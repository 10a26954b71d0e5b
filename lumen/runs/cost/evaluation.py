"""Cost estimate of an evaluation: FLOPs of generating the images of each row, and of the networks that score them."""

import itertools
from typing import Any, NamedTuple

from lumen.config.schema import Config
from lumen.core.registry import metrics
from lumen.runs.cost.estimate import build_on_meta, count_sample_flops


class RowCost(NamedTuple):
    """FLOPs of a row of an evaluation.

    Attributes:
        label: Label of the row in tables.
        images: Scored images.
        generating: FLOPs of making them.
        scoring: FLOPs of the networks that score them, as far as these are known.
        is_shared: Whether all runs of one protocol share the row.
    """

    label: str
    images: int
    generating: int
    scoring: int
    is_shared: bool


def estimate_evaluation(config: Config) -> list[RowCost]:
    """Return the cost of each row of an evaluation; none if nothing is scored, or samples cannot be counted.

    A row whose images are random costs what the run's own cost, which is the most.
    """
    task, _ = build_on_meta(config)
    if not config.metrics or task.output_kind != "images":
        return []
    labels = {"test": "samples"} | {row: task.reference_rows[row] for row in config.measure.anchors}
    kinds = {row: "test" if task.num_outputs(row, 2) > 1 else row for row in labels}
    flops = {kind: count_sample_flops(config, kind, task) for kind in dict.fromkeys(kinds.values())}
    if not flops["test"]:
        return []
    scoring = sum(filter(None, itertools.starmap(evaluator_flops, config.metrics.items())))
    counts = {row: config.measure.images * task.num_outputs(row, config.measure.samples) for row in labels}
    return [
        RowCost(label, counts[row], counts[row] * flops[kinds[row]], counts[row] * scoring, row in task.shared_rows)
        for row, label in labels.items()
    ]


def evaluator_flops(name: str, arguments: dict[str, Any]) -> int | None:
    """Return the FLOPs of a metric's network on one image; None if the metric does not know this network."""
    published = metrics.literal(name, "evaluator_gflop", {})
    gflop = next((published[value] for value in arguments.values() if value in published), None)
    return None if gflop is None else round(gflop * 1e9)
