"""Pictures of a task's progress, and the stages whose cost is estimated."""

from typing import NamedTuple

from torch import Tensor, nn


class Preview(NamedTuple):
    """Pictures of a task's progress, and values to log beside them.

    Attributes:
        columns: Images (b, 3, h, w) in [-1, 1] by title, such as the layouts of b validation images.
        captions: Caption of each row.
    """

    columns: dict[str, Tensor]
    captions: list[str]
    scalars: dict[str, Tensor]


class Stage(NamedTuple):
    """Part of a training step whose FLOPs and peak memory are estimated.

    Attributes:
        name: Part in the table of FLOPs.
        phase: Phase whose peak memory ends with this stage; None joins it to the next one.
        cached_values: Values per batch that a cache holds instead of computing the stage.
        loss: Loss of the last stage.
        trained: Network of the last stage that is trained, counted apart from the frozen ones around it.
        repeats: Times that the stage runs for a sample; None stands for the steps of the sampler.
    """

    name: str
    phase: str | None = None
    cached_values: int = 0
    loss: Tensor | None = None
    trained: nn.Module | None = None
    repeats: int | None = 1
