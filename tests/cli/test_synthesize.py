"""Generated training images as a data set: whole files, labels bit by bit, and the same bytes after an interruption."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lumen.__main__ import main
from lumen.data.source import LoaderConfig
from lumen.runs import synthesize
from lumen.scenes.export import map_labels
from lumen.scenes.render import render

WORDS = ["domains=[night]", "images=3"]


def contents(directory: Path) -> dict[str, bytes]:
    """Return the content of each file of a data set."""
    return {
        str(path.relative_to(directory)): path.read_bytes() for path in sorted(directory.rglob("*")) if path.is_file()
    }


@pytest.fixture(scope="module")
def night(finished, tmp_path_factory) -> Path:
    """Data set of three scenes at night, written without a disturbance; tests leave it as it is."""
    out = tmp_path_factory.mktemp("generated") / "night"
    assert main(["synthesize", str(finished), f"out={out}", *WORDS]) == 0
    return out


def test_synthesize_writes_labels_bit_by_bit_and_prompts_of_the_domain(night):
    masks = sorted(night.glob("stuffthingmaps/train2017/*.png"))
    assert len(masks) == 3 and len([*night.glob("images/train2017/*.png")]) == 3
    for path in masks:
        scene = render(int(path.name.split("-")[1]), 32)
        assert np.array_equal(np.array(Image.open(path)), map_labels(scene, "coco_stuff"))
    captions = json.loads((night / "annotations/captions_train2017.json").read_text())
    assert captions.keys() == {path.stem for path in masks} and all("night" in text for text in captions.values())


def test_synthesized_data_set_is_read_as_any_other(night):
    from datamodules.coco_stuff import CocoStuff

    source = CocoStuff(str(night), loader_config=LoaderConfig(size=32))
    records = source.records("train")
    assert len(records) == 3 and all(source.read(record)["captions"] for record in records)


def test_synthesize_keeps_what_is_whole_and_renews_what_is_not(night, finished, tmp_path, capsys):
    out = shutil.copytree(night, tmp_path / "night")
    image, mask = (next(out.glob(f"{folder}/train2017/*.png")) for folder in ("images", "stuffthingmaps"))
    assert main(["synthesize", str(finished), f"out={out}", *WORDS]) == 0
    assert "3 images, 3 of them written before" in capsys.readouterr().out
    image.write_bytes(image.read_bytes()[:-40])
    mask.unlink()
    (out / ".lumen-host-0.part").write_bytes(b"draft of a killed command")
    assert main(["synthesize", str(finished), f"out={out}", *WORDS]) == 0
    assert contents(out) == contents(night)


@pytest.mark.parametrize("number", [1, 3])
def test_interrupted_synthesize_ends_with_the_bytes_of_an_undisturbed_one(
    number, night, finished, tmp_path, monkeypatch
):
    out, count, original = tmp_path / "night", 0, synthesize.write

    def write(path: Path, content: bytes) -> None:
        nonlocal count
        count += 1
        if count == number:
            raise KeyboardInterrupt
        original(path, content)

    monkeypatch.setattr(synthesize, "write", write)
    command = ["synthesize", str(finished), f"out={out}", *WORDS]
    assert main(command) == 130 and contents(out) != contents(night)
    assert all(Image.open(path).load() for path in out.rglob("*.png"))  # none is half a file
    assert main(command) == 0 and contents(out) == contents(night)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "add out=DIR"),
        (["out=foreign"], "is not empty, and lumen synthesize has not made it"),
        (["out=new", "domains=[rain]"], "no captions for a domain 'rain'"),
        (["out=new", "size=64"], "size was decided when"),
        (["out=new", "images=0"], "images"),
        (["out=NIGHT", "domains=[fog]", "images=3"], "holds images of other settings"),
    ],
)
def test_synthesize_refuses_in_one_sentence_and_writes_nothing(words, message, night, finished, workdir, capsys):
    (workdir / "foreign").mkdir()
    (workdir / "foreign" / "photo.jpg").touch()
    before = contents(night)
    assert main(["synthesize", str(finished), *(word.replace("NIGHT", str(night)) for word in words)]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not (workdir / "new").exists() and contents(night) == before
    assert [path.name for path in (workdir / "foreign").iterdir() if path.name[0] != "."] == ["photo.jpg"]
