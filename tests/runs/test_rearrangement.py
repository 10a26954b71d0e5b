"""Drawn label maps: colours and ids, what is refused, and the pictures that a run makes of them."""

import numpy as np
import pytest
import torch
from PIL import Image

from lumen.__main__ import main
from lumen.core.errors import BadSample
from lumen.core.palette import class_palette
from lumen.runs.rearrangement import read_drawing

CLASSES = ("sky", "grass", "road")
IDS = torch.tensor([[0, 1, 2, 255]] * 4)


def save(path, array, mode=None):
    Image.fromarray(np.asarray(array, np.uint8), mode).save(path)
    return path


def test_drawing_is_read_from_ids_and_from_colours(tmp_path):
    colours = (class_palette(3) * 255).round().long()[IDS.clamp(max=3)]
    for name, array in (("ids.png", IDS), ("colours.png", colours)):
        assert torch.equal(read_drawing(save(tmp_path / name, array), CLASSES, 4), IDS)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (torch.full((4, 4), 7), "class id 7, and the data set has ids 0 to 2"),
        (torch.full((4, 4, 3), 9), "#090909 in row 0, column 0.*sky #800000, grass #008000"),
        (torch.zeros(4, 6), "6 x 4 px, and the run's images 4 x 4"),
    ],
)
def test_drawing_that_does_not_fit_is_refused(array, message, tmp_path):
    with pytest.raises(BadSample, match=message):
        read_drawing(save(tmp_path / "mask.png", array), CLASSES, 4)


@pytest.mark.long
def test_sample_command_rearranges_samples_and_photos_by_a_drawing(tiny_flags_of, workdir, capsys):
    flags = [*tiny_flags_of("rearranger"), "conditioning=segmap", "task.pairs=2", "data.images=6", "validation=2"]
    flags = [flag for flag in flags if not flag.startswith(("backbone", "conditioning.vectors"))]
    assert main(["train", "scenes", *flags, "steps=1", "metrics=[]", "wandb=disabled", "sampling.images=1"]) == 0
    run = str(next(workdir.glob("runs/scenes/*/seed0")))
    drawing, wrong = (str(save(workdir / name, np.full((32, 32), c))) for name, c in (("a.png", 1), ("b.png", 99)))
    photo = str(save(workdir / "photo.png", np.full((32, 32, 3), 90)))
    assert main(["sample", run, drawing, "seeds=3", "out=samples/"]) == 0
    assert sorted(path.name for path in (workdir / "samples").iterdir()) == ["0.png", "1.png", "2.png", "sheet.png"]
    assert main(["sample", run, drawing, f"style={photo}", "out=edit.png"]) == 0 and (workdir / "edit.png").exists()
    capsys.readouterr()
    assert main(["sample", run, wrong]) == 2 and "class id 99" in capsys.readouterr().err
