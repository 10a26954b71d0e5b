import pytest

from lumen.core.registry import datamodules
from lumen.data.datamodule import DataModule
from lumen.data.source import LoaderConfig


@pytest.fixture
def build_source(tmp_path, tmp_path_factory, monkeypatch):
    """Return a function that builds a data source by name over the tiny tree that it writes for itself."""

    def build(name, root=None, loader=None, **arguments):
        loader_config = LoaderConfig(**({"size": 32, "batch_size": 2, "num_batches": 6} | (loader or {})))
        if name == "scenes":
            return datamodules.build(name, **({"images": 6} | arguments), loader_config=loader_config)
        place = next(key for key, argument in datamodules.arguments(name).items() if argument.required)
        arguments = {place: str(root or tmp_path)} | arguments
        if name == "hf":
            config = pytest.importorskip("datasets").config
            monkeypatch.setattr(config, "HF_DATASETS_CACHE", tmp_path_factory.getbasetemp() / "datasets")
        source = datamodules.build(name, **arguments, loader_config=loader_config)
        if root is None and not any(tmp_path.iterdir()):
            source.fake(tmp_path)
        return source

    return build


@pytest.fixture
def build(build_source):
    """Return a function that builds a data module by name over the tiny tree of its source."""
    return lambda name, **options: DataModule(build_source(name, **options))
