"""Keys of metric values, such as test/miou, test/miou_95, test/miou/sky and real/kid-scenes."""

from collections.abc import Iterable
from dataclasses import dataclass

from lumen.core.registry import metrics

INTERVAL = "_95"  # ending of the key that holds the 95 % confidence interval


@dataclass(frozen=True)
class MetricKey:
    """Name of a metric value in metrics.json, in logs and in tables: kind/metric, kind/metric_95 or kind/metric/part.

    Attributes:
        kind: "test", a reference row such as "real", or another group of values, such as "val".
        metric: `Metric.key`: the registered name, and the name of the network where it is not the published one.
        part: Name in `Metric.breakdown`, such as a class.
        interval: Whether the key holds the two ends of the 95 % confidence interval.
    """

    kind: str
    metric: str
    part: str | None = None
    interval: bool = False

    def __str__(self) -> str:
        return f"{self.kind}/{self.column}"

    @classmethod
    def parse(cls, text: str) -> "MetricKey":
        """Return the key that `str` writes as this text.

        Raises:
            ValueError: The text holds no "/".
        """
        kind, metric, *part = text.split("/", 2)
        interval = metric.endswith(INTERVAL) and not part
        return cls(kind, metric.removesuffix(INTERVAL) if interval else metric, part[0] if part else None, interval)

    @property
    def column(self) -> str:
        """Key without its kind: the heading of a table's column."""
        return self.metric + (INTERVAL if self.interval else "") + ("" if self.part is None else f"/{self.part}")

    @property
    def registry_name(self) -> str:
        """Registered name of the metric: "lpips" of "lpips-scenes"."""
        return self.metric.partition("-")[0]


def metric_keys(names: Iterable[str], kind: str | None = None) -> list[MetricKey]:
    """Return the keys among names, such as those of metrics.json, in their order; of one kind if it is given."""
    keys = [MetricKey.parse(name) for name in names if "/" in name]
    return [key for key in keys if kind is None or key.kind == kind]


def higher_is_better(key: MetricKey) -> bool:
    """Return whether a larger value of a metric is better. It is read from the source if that has it as a literal."""
    literal = metrics.literal(key.registry_name, "higher_is_better")
    return metrics.factory(key.registry_name).higher_is_better if literal is None else literal
