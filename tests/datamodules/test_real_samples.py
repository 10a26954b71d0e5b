"""The readers on pieces of the real data sets."""

import numpy as np
import pytest
from PIL import Image

from lumen.core.interfaces import IGNORE

pytestmark = pytest.mark.filterwarnings("ignore:.*the prompts are empty")
# Split sizes, captions of a validation image, and classes that are in the first validation photo.
REAL = {
    "coco_stuff": (13, 8, 5, {"chair", "tv", "clock", "vase"}),
    "ade20k": (3, 5, 1, {"wall", "building", "sky", "tree"}),
    "cityscapes": (8, 1, 1, {"road", "car", "building", "vegetation"}),
}


@pytest.mark.parametrize("name", REAL)
def test_real_samples_are_read(name, build, samples):
    train, val, captions, present = REAL[name]
    data = build(name, root=samples / name, loading={"size": 256, "batch": 4, "batches": 2})
    report = data.check()
    assert report.ok, str(report)
    assert (report.counts["train"]["image"], report.counts["val"]["image"]) == (train, val)
    assert len(data.records("val")[0].captions) == captions
    view = data.dataset("val")[0]
    assert present <= {data.classes[c] for c in view["mask"].unique().tolist() if c != IGNORE}
    for batch in data.train_dataloader():
        assert batch.image.shape == (4, 3, 256, 256) and (batch.mask != IGNORE).float().mean() > 0.1


def test_the_official_captions_come_in_their_order(build, samples):
    data = build("coco_stuff", root=samples / "coco_stuff")
    assert data.dataset("val")[0]["caption"] == "A woman stands in the dining area at the table."
    assert {caption for record in data.records("train") for caption in record.captions} == set()


def test_label_ids_become_the_official_train_ids(build, samples):
    """Against the train ids that stand beside the frame; that map was resampled, so its edges differ by a pixel."""
    data = build("cityscapes", root=samples / "cityscapes")
    path = data.records("val")[0].files["mask"]
    official = np.asarray(Image.open(path.with_name(path.name.replace("labelIds", "labelTrainIds"))))
    assert (np.asarray(data.readers["mask"](path)) == official).mean() > 0.995


def test_ade_names_are_the_first_synonyms(build, samples):
    data = build("ade20k", root=samples / "ade20k")
    lines = (samples / "ade20k/ADEChallengeData2016/objectInfo150.txt").read_text().splitlines()[1:]
    assert data.classes == tuple(line.split("\t")[4].split(",")[0].strip() for line in lines)
