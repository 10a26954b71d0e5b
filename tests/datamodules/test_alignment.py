"""Image, label map and disparity stay on top of one another through resizing, crop and mirroring."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from lumen.core.interfaces import IGNORE
from lumen.core.random import generator
from lumen.data.transforms import Frame, crop, window

COLOURS = torch.from_numpy(np.random.default_rng(3).integers(0, 256, (256, 3))).float()
WAYS = [
    ("coco_stuff", {}),
    ("coco_stuff", {"fit": "crop"}),
    ("ade20k", {}),
    ("ade20k", {"fit": "crop"}),
    ("cityscapes", {}),
    ("cityscapes", {"full": True}),
    ("bdd100k", {}),
]


def coloured(data, split: str = "train", size: tuple[int, int] = (300, 200)):
    """The data set with its first image repainted: a colour for each class, its disparity the class too."""
    files = data.records(split)[0].files
    mask = Image.open(files["mask"]).resize(size, Image.Resampling.NEAREST)
    # Shapes without symmetry: a mirrored or shifted map cannot agree by chance.
    mask = mask.rotate(17, fillcolor=mask.getpixel((0, 0)))
    mask.save(files["mask"])
    classes = np.asarray(data.readers["mask"](files["mask"]))
    image = Image.fromarray(COLOURS.byte().numpy()[classes])
    image.save(files["image"], **({"quality": 100, "subsampling": 0} if files["image"].suffix == ".jpg" else {}))
    if "disparity" in files:
        Image.fromarray(np.where(classes == IGNORE, 0, (classes.astype(np.uint16) + 1) * 256 + 1)).save(
            files["disparity"]
        )
    return data.dataset(split)


def agree(sample, reach: int = 4) -> float:
    """Share of the picture compared, once all of it agrees; edges and the rim, where colours blend, are left out."""
    mask = sample["mask"].float()[None, None]
    around = {"kernel_size": 2 * reach + 1, "stride": 1, "padding": reach}
    inside = (F.max_pool2d(mask, **around) == -F.max_pool2d(-mask, **around))[0, 0]
    inside[:reach], inside[-reach:], inside[:, :reach], inside[:, -reach:] = False, False, False, False
    error = (sample["image"].float() - COLOURS[sample["mask"].long()].permute(2, 0, 1)).abs().amax(0)
    assert error[inside].max() <= 12, "image and label map disagree"
    return inside.float().mean().item()


@pytest.mark.parametrize(("name", "arguments"), WAYS)
def test_every_look_shows_image_and_labels_of_the_same_place(name, arguments, build):
    view = coloured(build(name, loading={"size": 96}, **arguments))
    looks = [view[0, epoch] for epoch in range(8)] + [view[0]]
    assert min(agree(look) for look in looks) > 0.1
    assert len({look["image"].numpy().tobytes() for look in looks}) > 1  # the flip, at least, was drawn


@pytest.mark.parametrize(("name", "arguments"), WAYS)
def test_mirrored_is_the_mirror_image(name, arguments, build):
    def only(flip):
        return build(name, loading={"size": 40}, flip=flip, **arguments).dataset("train")[0, 4]

    plain, mirrored = only(0.0), only(1.0)
    assert torch.equal(mirrored["image"], plain["image"].flip(-1))
    assert torch.equal(mirrored["mask"], plain["mask"].flip(-1))


def test_disparity_follows_the_labels_exactly_and_grows_with_the_width(build):
    view = coloured(build("cityscapes", loading={"size": 96}), size=(300, 150))
    for look in [view[0, epoch] for epoch in range(8)] + [view[0]]:
        distance, mask = look["extra"]["disparity"], look["mask"]
        known = mask != IGNORE
        assert distance.dtype == torch.float32 and torch.equal(distance.isnan(), ~known)
        assert torch.allclose(distance[known], (mask[known] + 1.0) * 192 / 300)


def test_the_frame_says_where_an_original_pixel_went(build):
    data = build("cityscapes", loading={"size": 64}, flip=1.0)
    files = data.records("train")[0].files
    pixels = np.zeros((64, 128, 3), np.uint8)
    pixels[:, 70:72] = 255
    Image.fromarray(pixels).save(files["image"])
    for epoch in range(6):
        look = data.dataset("train")[0, epoch]
        frame = look["extra"]["frame"]
        left, _, right, _ = frame.window
        place = [int(x * frame.scale) - left for x in (70, 71)]
        expected = sorted(63 - x for x in place if 0 <= x < right - left)
        assert look["image"][0, 0].nonzero().flatten().tolist() == expected


def test_cityscapes_crops_in_training_and_shows_the_middle_or_all_in_evaluation(build):
    data = build("cityscapes", loading={"size": 32})
    view = data.dataset("train")
    assert view[0]["extra"]["frame"].window == (16, 0, 48, 32)
    places = [window((64, 32), (32, 32), generator("place", i)) for i in range(400)]
    assert {place[0] for place in places} == set(range(33)) and {place[1] for place in places} == {0}
    full = build("cityscapes", loading={"size": 32}, full=True)
    assert full.dataset("val")[0]["image"].shape == (3, 32, 64)
    assert full.dataset("train")[0, 0]["image"].shape == (3, 32, 32)


def test_a_crop_keeps_proportions_and_fills_the_square():
    for given in [(640, 480), (480, 640), (33, 100), (512, 512), (1000, 999)]:
        frame = crop(given, 96)
        left, upper, right, lower = frame.window
        assert (right - left, lower - upper) == (96, 96) and min(frame.resized) == 96
        assert left >= 0 and upper >= 0 and right <= frame.resized[0] and lower <= frame.resized[1]
        assert abs(frame.resized[0] / frame.resized[1] - given[0] / given[1]) < 0.02 * given[0] / given[1]


def test_label_ids_are_never_blended():
    mask = Image.fromarray(np.tile(np.array([0, 170], np.uint8), (40, 20)))
    cut = Frame((40, 40), (17, 23), (0, 0, 17, 23)).cut(mask)
    assert set(np.unique(cut)) <= {0, 170}


def test_training_draws_among_the_captions_and_evaluation_takes_the_first(build):
    view = build("coco_stuff").dataset("train")
    assert {view[0, epoch]["caption"][:7] for epoch in range(12)} == {"a first", "a secon"}
    assert view[0]["caption"].startswith("a first")


def test_half_of_the_looks_are_mirrored(build):
    view = build("ade20k", loading={"size": 8}).dataset("train")
    plain = [view[i]["image"] for i in range(6)]
    mirrored = [not torch.equal(view[i, epoch]["image"], plain[i]) for i in range(6) for epoch in range(30)]
    assert 60 < sum(mirrored) < 120
