"""Copies of images under other names: every data set with labels reads them as its own, annotations bit by bit."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lumen.core.interfaces import Batch
from lumen.core.registry import datamodules
from lumen.data.datamodule import DataModule
from lumen.data.source import LoaderConfig
from lumen.runs.synthesize import Writer
from lumen.training.synthetic_images import SyntheticImages

CONFIG = LoaderConfig(size=32, batch_size=4)


class Images(SyntheticImages):
    """Images of one colour in place of generated ones."""

    def __init__(self, ids: list[str]):
        torch.nn.Module.__init__(self)
        self.task = SimpleNamespace(device=torch.device("cpu"))
        self.sets = {"synthetic-night-0": ("night", 0)}
        self.prompts = {"night": {image_id: f"night over {image_id}" for image_id in ids}}

    def generate(self, name: str, batch: Batch) -> torch.Tensor:
        """Return one colour in each image's size."""
        return torch.full(tuple(batch.image.shape), 77, dtype=torch.uint8)


def labelled() -> list[str]:
    """Return the names of data sets in files whose images have label maps."""
    names = [name for name in datamodules.names() if "root" in datamodules.arguments(name)]
    return [name for name in names if datamodules.factory(name).has_labels]


@pytest.mark.parametrize("name", labelled())
def test_copies_of_a_data_set_are_read_by_it(name, tmp_path):
    arguments = datamodules.arguments(name)
    whole = {"full": True} if "full" in arguments else {"fit": "stretch"}
    datamodules.factory(name).fake(tmp_path / "real")
    source = datamodules.build(name, root=str(tmp_path / "real"), **whole, loader_config=CONFIG)
    records = source.records("train")
    writer = Writer(tmp_path / "generated", DataModule(source), Images([r.id for r in records]), "digest", 4)
    assert writer.write(records) == len(records) == writer.write(records)
    generated = datamodules.build(name, root=str(tmp_path / "generated"), **whole, loader_config=CONFIG)
    copies = {record.id: record for record in generated.index_split("train").match_records()}
    assert copies.keys() == {f"{record.id}-night-0" for record in records}
    for record in records:
        copy = copies[f"{record.id}-night-0"]
        assert copy.captions == (f"night over {record.id}",) and copy.files.keys() == record.files.keys()
        for kind in record.files.keys() - {"image"}:
            assert copy.files[kind].read_bytes() == record.files[kind].read_bytes()
        before, after = source.read(record), generated.read(copy)
        assert after["image"].size == before["image"].size and after["domain"] == before["domain"]
        assert np.abs(np.array(after["image"]).astype(int) - 77).max() <= 2  # JPEG where the data set has no other
