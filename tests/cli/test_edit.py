"""lumen edit: sheets of a run's directions, and mistakes."""

import json
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from lumen.__main__ import main
from lumen.config.experiment import load
from lumen.core.errors import BadSample
from lumen.core.interfaces import IGNORE, Batch
from lumen.runs import edit
from lumen.scenes import CLASSES

TINY = [
    "size=32",
    "diffusion.weights=none",
    "generator.weights=none",
    "task=directions",
    "task.directions=2",
    "batch=2",
]
TINY += ["data.images=4", "validation=2", "measure.images=2", "metrics=[]", "measure.anchors=[]", "sampling.images=1"]
TINY += ["workers=0", "accelerator=cpu", "wandb=disabled"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Finished run of directions found without a step."""
    root = tmp_path_factory.mktemp("edit")
    assert main(["train", "scenes", *TINY, "task.find=sefa", "steps=0", f"runs={root}"]) == 0
    return next(root.glob("scenes/*/seed0"))


@pytest.mark.long
def test_edit_writes_a_sheet_of_directions_and_lengths(run, workdir, capsys):
    from lumen.config.experiment import reload
    from lumen.runs.data import build_data
    from lumen.runs.directory import load_run_config

    source = build_data(reload(load_run_config(run), [])).source
    image_id = source.eval_records()[0].id
    assert main(["edit", str(run), image_id, "class=sky", "out=sky.png", "length=5"]) == 0
    assert main(["edit", str(run), image_id, "class=sky", "out=again.png", "length=5"]) == 0
    with Image.open("sky.png") as sheet, Image.open("again.png") as again:
        one, text = sheet.size, sheet.info
        assert sheet.tobytes() == again.tobytes() and "class=sky" in text["command"]
    assert main(["edit", str(run), image_id]) == 0
    printed = capsys.readouterr().out.splitlines()[-1]
    with Image.open(printed.removeprefix("image: ")) as sheet:
        assert sheet.width == one[0] and sheet.height > one[1] and sheet.height % one[1] == 0
    Image.new("RGB", (40, 32), "blue").save("photo.png")
    assert main(["edit", str(run), "photo.png", "out=photo-edits.png"]) == 0
    assert (run / "directions.safetensors").exists() and json.loads((run / "metrics.json").read_text())["steps"] == 0


@pytest.mark.long
def test_edit_mistakes_are_answered(run, workdir, capsys):
    for words, message in (
        (["99", "class=sky"], "'99' is no file, and no image of scenes has this id"),
        (["99", "class=skies"], "did you mean 'sky'"),
        (["99", "length=0"], "give a number above 0"),
        ([], "a photo or the id of an image are needed"),
    ):
        assert main(["edit", str(run), *words, "out=sheet.png"]) == 2
        assert message in capsys.readouterr().err
    Image.new("RGB", (32, 32), "blue").save("photo.png")
    codes = [main(["edit", str(run), "photo.png", f"class={name}", "out=sheet.png"]) for name in CLASSES]
    assert 2 in codes and "shows no" in capsys.readouterr().err


@pytest.mark.parametrize(("label", "names", "words"), [
    (IGNORE, [], "shows none of the 11 classes"), (IGNORE, ["sky"], "none"), (0, ["car"], "shows no car; it shows"),
])  # fmt: skip
def test_edit_of_a_class_that_the_image_does_not_show_is_refused(label, names, words, monkeypatch, tmp_path):
    mask = torch.full((1, 32, 32), label)
    batch = Batch(torch.zeros(1, 3, 32, 32), [""], ["a"], mask)
    source = SimpleNamespace(classes=CLASSES, name="scenes")
    monkeypatch.setattr(edit, "build_data", lambda config: SimpleNamespace(source=source))
    monkeypatch.setattr(edit, "find_image", lambda data, image_id: batch)
    config, out = load("scenes", TINY), tmp_path / "sheet.png"
    with pytest.raises(BadSample, match=words):
        edit.save_edits(tmp_path, config, "a", names, out, None, "stretch", "lumen edit")
    assert not out.exists()
