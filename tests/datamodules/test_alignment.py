"""Alignment of image, label map and disparity through resizing, cropping and flipping."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from lumen.core.errors import BadConfig
from lumen.core.labels import IGNORE
from lumen.data.transforms import GREY

COLOURS = torch.from_numpy(np.random.default_rng(3).integers(0, 256, (256, 3))).float()
COLOURS[IGNORE] = torch.tensor(GREY)  # of bars, which have no class
VARIANTS = [
    ("coco_stuff", {}),
    ("coco_stuff", {"fit": "crop"}),
    ("coco_stuff", {"fit": "pad"}),
    ("ade20k", {}),
    ("ade20k", {"fit": "crop"}),
    ("cityscapes", {}),
    ("cityscapes", {"full": True}),
    ("cityscapes", {"fit": "pad"}),
    ("cityscapes", {"fit": "stretch"}),
    ("bdd100k", {}),
    ("bdd100k", {"fit": "pad"}),
    ("acdc", {}),
    ("acdc", {"full": True}),
]


def colour_by_class(data, split: str = "train", size: tuple[int, int] = (300, 200)):
    """Return a split whose first image has a colour per class, and a disparity that encodes the class too."""
    source = data.source
    files = source.records(split)[0].files
    mask = Image.open(files["mask"]).resize(size, Image.Resampling.NEAREST)
    # Shapes without symmetry: a flipped or shifted map cannot agree by chance.
    mask = mask.rotate(17, fillcolor=mask.getpixel((0, 0)))
    mask.save(files["mask"])
    classes = np.asarray(source.readers["mask"](files["mask"]))
    image = Image.fromarray(COLOURS.byte().numpy()[classes])
    image.save(files["image"], **({"quality": 100, "subsampling": 0} if files["image"].suffix == ".jpg" else {}))
    if "disparity" in files:
        stored = np.where(classes == IGNORE, 0, (classes.astype(np.uint16) + 1) * 256 + 1)
        Image.fromarray(stored).save(files["disparity"])
    return data.dataset(split)


def assert_aligned(sample, reach: int = 4) -> float:
    """Assert that image and label map agree, and return the share compared; blended colours at edges are ignored."""
    mask = sample["mask"].float()[None, None]
    options = {"kernel_size": 2 * reach + 1, "stride": 1, "padding": reach}
    inside = (F.max_pool2d(mask, **options) == -F.max_pool2d(-mask, **options))[0, 0]
    inside[:reach], inside[-reach:], inside[:, :reach], inside[:, -reach:] = False, False, False, False
    error = (sample["image"].float() - COLOURS[sample["mask"].long()].permute(2, 0, 1)).abs().amax(0)
    assert error[inside].max() <= 12, "image and label map disagree"
    return inside.float().mean().item()


@pytest.mark.parametrize(("name", "arguments"), VARIANTS)
def test_augmentation_keeps_image_and_labels_aligned(name, arguments, build):
    dataset = colour_by_class(build(name, loader={"size": 96}, **arguments))
    samples = [dataset[0, epoch] for epoch in range(8)] + [dataset[0]]
    assert min(assert_aligned(sample) for sample in samples) > 0.1
    assert len({sample["image"].numpy().tobytes() for sample in samples}) > 1  # at least the flip is random


@pytest.mark.parametrize(("name", "arguments"), VARIANTS)
def test_flip_mirrors_image_and_labels(name, arguments, build):
    def sample(flip):
        return build(name, loader={"size": 40}, flip=flip, **arguments).dataset("train")[0, 4]

    plain, flipped = sample(0.0), sample(1.0)
    assert torch.equal(flipped["image"], plain["image"].flip(-1))
    assert torch.equal(flipped["mask"], plain["mask"].flip(-1))


@pytest.mark.parametrize(("fit", "width"), [(None, 192), ("crop", 192), ("stretch", 96), ("pad", 96)])
def test_disparity_is_aligned_with_labels_and_scales_with_the_width(fit, width, build):
    dataset = colour_by_class(build("cityscapes", loader={"size": 96}, fit=fit), size=(300, 150))
    for sample in [dataset[0, epoch] for epoch in range(8)] + [dataset[0]]:
        disparity, mask = sample["extra"]["disparity"], sample["mask"]
        valid = mask != IGNORE
        assert disparity.dtype == torch.float32 and torch.equal(disparity.isnan(), ~valid)
        assert torch.allclose(disparity[valid], (mask[valid] + 1.0) * width / 300)


def test_cityscapes_transform_maps_original_pixels(build):
    data = build("cityscapes", loader={"size": 64}, flip=1.0)
    files = data.source.records("train")[0].files
    pixels = np.zeros((64, 128, 3), np.uint8)
    pixels[:, 70:72] = 255
    Image.fromarray(pixels).save(files["image"])
    for epoch in range(6):
        sample = data.dataset("train")[0, epoch]
        transform = sample["extra"]["frame"]
        left, _, right, _ = transform.window
        columns = [int(x * transform.scale) - left for x in (70, 71)]
        expected = sorted(63 - x for x in columns if 0 <= x < right - left)
        assert sample["image"][0, 0].nonzero().flatten().tolist() == expected


def test_padded_frame_keeps_its_proportions_within_bars(build):
    sample = build("cityscapes", loader={"size": 64}, fit="pad").dataset("train")[0]
    bars, frame = torch.cat([sample["mask"][:16], sample["mask"][48:]]), sample["extra"]["frame"]
    assert (bars == IGNORE).all() and sample["extra"]["disparity"][:16].isnan().all()
    assert (frame.resized, frame.window) == ((64, 32), (0, -16, 64, 48))  # row 0 of the frame is row 16 of the image


def test_random_crops_are_what_fit_replaces(build):
    (plain, crop, padded) = (build("acdc", fit=fit).source for fit in (None, "crop", "pad"))
    assert plain.cache_key() == crop.cache_key() != padded.cache_key() and padded.num_views() == 2
    with pytest.raises(BadConfig, match=r"data\.full=true"):
        build("cityscapes", full=True, fit="pad")


def test_cityscapes_crops_the_centre_or_nothing_in_evaluation(build):
    dataset = build("cityscapes", loader={"size": 32}).dataset("train")
    assert dataset[0]["extra"]["frame"].window == (16, 0, 48, 32)
    full = build("cityscapes", loader={"size": 32}, full=True)
    assert full.dataset("val")[0]["image"].shape == (3, 32, 64)
    assert full.dataset("train")[0, 0]["image"].shape == (3, 32, 32)


def test_captions_are_random_in_training_and_the_first_in_evaluation(build):
    dataset = build("coco_stuff").dataset("train")
    assert {dataset[0, epoch]["caption"][:7] for epoch in range(12)} == {"a first", "a secon"}
    assert dataset[0]["caption"].startswith("a first")


def test_flip_occurs_in_half_of_the_views(build):
    dataset = build("ade20k", loader={"size": 8}).dataset("train")
    plain = [dataset[i]["image"] for i in range(6)]
    flipped = [not torch.equal(dataset[i, epoch]["image"], plain[i]) for i in range(6) for epoch in range(30)]
    assert 60 < sum(flipped) < 120
