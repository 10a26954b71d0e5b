import pytest

from lumen.core.registry import datamodules
from lumen.data.datamodule import Loading


@pytest.fixture
def build(tmp_path):
    """Makes a data set by name over the tiny tree that it writes for itself."""

    def make(name, root=None, loading=None, **arguments):
        loading = Loading(**({"size": 32, "batch": 2, "batches": 6} | (loading or {})))
        if name == "scenes":
            return datamodules.build(name, **({"images": 6} | arguments), loading=loading)
        data = datamodules.build(name, root=str(root or tmp_path), **arguments, loading=loading)
        if root is None and not any(tmp_path.iterdir()):
            data.fake(tmp_path)
        return data

    return make
