"""Domains of evaluated images, such as skies or weather: those of a run's data set, and those of an unseen one."""

from typing import NamedTuple

from lumen.core.errors import BadConfig
from lumen.data.source import DataSource


class DomainGroups(NamedTuple):
    """Images that a metric is computed on: the mean over groups of domains, whose images are pooled in each group.

    Attributes:
        title: Ending of the metric's key; "" for the run's own data set.
        groups: Names of the domains of each group.
    """

    title: str
    groups: tuple[tuple[str, ...], ...]


def verify_unseen(source: DataSource, unseen: DataSource) -> DataSource:
    """Return an unseen data set that a run on another one can be evaluated on.

    Raises:
        BadConfig: It has other classes.
    """
    if unseen.classes != source.classes:
        raise BadConfig(
            f"the unseen data set {unseen.name} has {len(unseen.classes)} classes, such as '{unseen.classes[0]}', and "
            f"{source.name} has {len(source.classes)} others; name a data set of the same classes."
        )
    return unseen


def eval_domains(source: DataSource) -> tuple[str, ...]:
    """Return the domains of the images that outputs are scored on, by name."""
    return tuple(sorted({source.domain(record) for record in source.eval_records()}))


def group_domains(source: DataSource, unseen: DataSource) -> list[DomainGroups]:
    """Return the run's own data set, each domain of the unseen one, and the mean over these.

    Raises:
        BadConfig: The two share a domain.
    """
    own, names = eval_domains(source), eval_domains(unseen)
    if shared := [name for name in names if name in own]:
        raise BadConfig(
            f"the unseen data set {unseen.name} has images of the domain '{shared[0]}', which {source.name} has too; "
            "leave that domain out of either."
        )
    singles = [DomainGroups(name, ((name,),)) for name in names]
    mean = [DomainGroups("mean", tuple((name,) for name in names))] if len(names) > 1 else []
    return [DomainGroups("", (own,)), *singles, *mean]
