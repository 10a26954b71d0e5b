"""Names of metric values for readers, such as mIoU for test/miou, without importing a metric."""

from contextlib import suppress

from lumen.core.errors import BadPlugin, UnknownName
from lumen.core.registry import metrics
from lumen.evaluation.keys import MetricKey

TRAINING_VALUES = {
    "val/loss": "validation loss",
    "val/response": "response to the layout",
    "layout/explained_variance": "explained variance",
    "layout/components": "components",
}


def heading(key: MetricKey) -> str:
    """Return the name of a value: that of the metric and of its network, and the part."""
    if str(key) in TRAINING_VALUES:
        return TRAINING_VALUES[str(key)]
    name, network = display_name(key.registry_name), key.metric.partition("-")[2]
    name = f"{name}-{network}" if network else name
    return name if key.part is None else f"{name}: {key.part}"


def display_name(metric: str) -> str:
    """Return the name of a metric in the field; of one that is not registered, its key in words."""
    with suppress(UnknownName, BadPlugin):
        if name := metrics.literal(metric, "display_name"):
            return name
    return metric.replace("_", " ")
