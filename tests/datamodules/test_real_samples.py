"""Readers on samples of the real data sets."""

import numpy as np
import pytest
from PIL import Image

from lumen.core.labels import IGNORE

pytestmark = pytest.mark.filterwarnings("ignore:.*the prompts are empty")
# Split sizes, captions of a validation image, and classes in the first validation photo.
EXPECTED = {
    "coco_stuff": (13, 8, 5, {"chair", "tv", "clock", "vase"}),
    "ade20k": (3, 5, 1, {"wall", "building", "sky", "tree"}),
    "cityscapes": (8, 1, 1, {"road", "car", "building", "vegetation"}),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_real_data_set_is_read(name, build, samples):
    num_train, num_val, num_captions, classes = EXPECTED[name]
    data = build(name, root=samples / name, loader={"size": 256, "batch_size": 4, "num_batches": 2})
    report = data.source.check()
    assert report.ok, str(report)
    assert (report.counts["train"]["image"], report.counts["val"]["image"]) == (num_train, num_val)
    assert len(data.source.records("val")[0].captions) == num_captions
    sample = data.dataset("val")[0]
    assert classes <= {data.source.classes[c] for c in sample["mask"].unique().tolist() if c != IGNORE}
    for batch in data.train_dataloader():
        assert batch.image.shape == (4, 3, 256, 256) and (batch.mask != IGNORE).float().mean() > 0.1


def test_official_captions_keep_their_order(build, samples):
    data = build("coco_stuff", root=samples / "coco_stuff")
    assert data.dataset("val")[0]["caption"] == "A woman stands in the dining area at the table."
    assert {caption for record in data.source.records("train") for caption in record.captions} == set()


def test_label_ids_become_the_official_train_ids(build_source, samples):
    """The frame comes with official train ids. That map was resampled, so its edges differ by a pixel."""
    source = build_source("cityscapes", root=samples / "cityscapes")
    path = source.records("val")[0].files["mask"]
    official = np.asarray(Image.open(path.with_name(path.name.replace("labelIds", "labelTrainIds"))))
    assert (np.asarray(source.readers["mask"](path)) == official).mean() > 0.995


def test_ade_class_names_are_the_first_synonyms(build_source, samples):
    source = build_source("ade20k", root=samples / "ade20k")
    lines = (samples / "ade20k/ADEChallengeData2016/objectInfo150.txt").read_text().splitlines()[1:]
    assert source.classes == tuple(line.split("\t")[4].split(",")[0].strip() for line in lines)
