"""Label maps: the labels can be read back, and the colours are those of Pascal VOC."""

import pytest
import torch

from lumen.core.errors import BadCheckpoint
from lumen.core.interfaces import IGNORE
from lumen.core.palette import class_palette
from lumen.core.registry import conditionings
from lumen.scenes.world import CLASSES


def test_segmap_holds_the_labels(scenes, build, fitted):
    labelled = scenes.mask != IGNORE
    layout = fitted("segmap")(scenes)
    assert layout.shape[1] == len(CLASSES) and torch.equal(layout.sum(1), labelled.float())
    assert torch.equal(layout.argmax(1)[labelled], scenes.mask[labelled]) and not labelled.all()
    coloured = build("segmap", form="colours")
    colours = coloured(scenes)
    assert colours.shape == scenes.image.shape and torch.equal(fitted("segmap").visualize(layout), colours)
    nearest = torch.cdist(colours.permute(0, 2, 3, 1)[labelled], coloured.palette[:-1]).argmin(1)
    assert torch.equal(nearest, scenes.mask[labelled])
    assert not colours.permute(0, 2, 3, 1)[~labelled].any()


def test_segmap_checkpoint_is_refused_for_other_classes(build):
    state = build("segmap", form="colours").state_dict()
    with pytest.raises(BadCheckpoint, match="label set"):
        conditionings.build("segmap", form="colours", classes=("sky", "sea")).load_state_dict(state)


def test_class_palette_is_pascal_vocs():
    colours = (class_palette(182) * 255).round().int().tolist()
    for number, colour in enumerate(colours[:-1], 1):
        expected, bits = [0, 0, 0], number
        for position in range(7, -1, -1):
            expected = [value | (bits >> k & 1) << position for k, value in enumerate(expected)]
            bits >>= 3
        assert colour == expected
    assert colours[:3] == [[128, 0, 0], [0, 128, 0], [128, 128, 0]] and colours[-1] == [0, 0, 0]
    assert torch.pdist(torch.tensor(colours).float()).min() >= 32
