"""Data set of a config: its files alone, which needs no torch, or as a data module."""

from dataclasses import replace
from typing import TYPE_CHECKING

from lumen.config.schema import Config
from lumen.core.registry import datamodules
from lumen.data.source import DataSource, LoaderConfig

if TYPE_CHECKING:
    from lumen.data.datamodule import DataModule


def build_source(config: Config) -> DataSource:
    """Return the files of the data set."""
    loader_config = LoaderConfig(
        size=config.size,
        batch_size=config.batch,
        num_batches=config.steps * config.accumulate,
        workers=config.workers,
        seed=config.seed,
        val_images=config.validation,
        eval_images=config.measure.images,
        train_images=config.task.get("images"),
        questions=config.measure.questions,
        views=config.views,
    )
    return datamodules.build(**config.data, loader_config=loader_config)


def build_unseen(config: Config, source: DataSource) -> DataSource | None:
    """Return the files of the data set that the task is scored on as well, if it has one."""
    if not (arguments := config.task.get("unseen")):
        return None
    return datamodules.build(**arguments, loader_config=replace(source.loader_config, questions=None))


def build_data(config: Config) -> "DataModule":
    """Return the data module.

    Raises:
        BadConfig: The unseen data set has other classes.
    """
    from lumen.data.datamodule import DataModule

    source = build_source(config)
    return DataModule(source, build_unseen(config, source))
