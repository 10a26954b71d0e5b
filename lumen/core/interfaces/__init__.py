"""Interfaces between packages: Batch, Backbone, Conditioning, Generator, Task, Metric."""

from lumen.core.interfaces.backbone import Backbone
from lumen.core.interfaces.batch import IGNORE, Batch
from lumen.core.interfaces.conditioning import Conditioning
from lumen.core.interfaces.generator import Generator
from lumen.core.interfaces.metric import Metric
from lumen.core.interfaces.task import Optimization, Stage, Task

__all__ = ["IGNORE", "Backbone", "Batch", "Conditioning", "Generator", "Metric", "Optimization", "Stage", "Task"]
