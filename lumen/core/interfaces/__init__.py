"""Interfaces between packages: Batch, Backbone, Conditioning, Generator, Task, Metric."""

from lumen.core.interfaces.backbone import Backbone
from lumen.core.interfaces.batch import Batch
from lumen.core.interfaces.conditioning import Conditioning
from lumen.core.interfaces.generator import Generator
from lumen.core.interfaces.metric import Metric
from lumen.core.interfaces.optimization import Optimization
from lumen.core.interfaces.stage import Preview, Stage
from lumen.core.interfaces.task import Task, trainable_parameters
from lumen.core.labels import IGNORE

__all__ = [
    "IGNORE",
    "Backbone",
    "Batch",
    "Conditioning",
    "Generator",
    "Metric",
    "Optimization",
    "Preview",
    "Stage",
    "Task",
    "trainable_parameters",
]
