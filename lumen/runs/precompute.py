"""Precomputation of the cache entries that the runs of a config would use."""

from lumen.config.schema import Config
from lumen.runs.build import build_cache_options, build_task, device, precision
from lumen.runs.data import build_data
from lumen.training.feature_precomputer import print_cache
from lumen.training.precompute import CachedStatistics, build_precomputer


def precompute(config: Config) -> None:
    """Fill the cache for the runs of a config, however many images they read."""
    data = build_data(config)
    task = build_task(config, data).to(device(config))
    options = build_cache_options(config)
    task.fit_statistics(data, CachedStatistics(options, data, task))
    precomputer = build_precomputer(options, data, task, precision(config))
    precomputer.fill(precomputer.select(None))
    print_cache(f"{precomputer.ranges[-1].stop} images x {precomputer.views} views are in {options.root}.")
