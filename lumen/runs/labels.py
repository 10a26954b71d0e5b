"""Label maps of a run's data set: who needs them, and what is left out of a data set without them."""

from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from lumen.config.schema import Config
from lumen.core.errors import BadConfig, Note
from lumen.core.registry import metrics
from lumen.data.source import DataSource


def require_classes(source: DataSource, user: str) -> tuple[str, ...]:
    """Return the classes of a data set. A component that asks for them needs label maps.

    Args:
        user: The component, as in "conditioning=segmap".

    Raises:
        BadConfig: The data set has no label maps.
    """
    if source.has_labels:
        return source.classes
    raise BadConfig(
        f"{user} needs label maps, which the data set {source.name} does not have; choose another one, or a data set "
        "with label maps (`lumen list data`)."
    )


def usable_metrics(config: Config, source: DataSource) -> list[str]:
    """Return the metrics of a config that a data set has the annotations for, and say which others are left out.

    Only a data set without label maps leaves metrics out; of any other, a metric that lacks something is a mistake.
    """
    if source.has_labels:
        return list(config.metrics)
    needs = {name: metrics.needs(name) for name in config.metrics}
    lacking = {"label maps": [name for name in needs if "classes" in needs[name]]}
    if not source.num_questioned():
        lacking["questions about captions"] = [name for name in needs if "questions" in needs[name]]
    if reasons := [f"{', '.join(names)} without {what}" for what, names in lacking.items() if names]:
        rank_zero_warn(f"the data set {source.name} leaves out {', and '.join(reasons)}.", category=Note)
    return [name for name in needs if not any(name in names for names in lacking.values())]
