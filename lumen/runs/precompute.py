"""Precomputation of the cache entries that the runs of a config would use."""

from lumen.config.schema import Config
from lumen.runs.build import build_data, build_module, device, precision
from lumen.training.fit_conditioning import fit
from lumen.training.precompute import Gathered, Keeper, say


def build(config: Config) -> None:
    """Fills the cache as a run of this config would, whatever that run would look at."""
    data = build_data(config)
    module = build_module(config, data).to(device(config))
    fit(module.conditioning, data, config.seed, Gathered(config, data, module))
    keeper = Keeper(config, data, module, precision(config))
    keeper.fill(keeper.chosen(None))
    say(f"{keeper.groups[-1].stop} images x {keeper.looks} looks are in {keeper.root}.")
