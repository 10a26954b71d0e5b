"""Folders of photos: names, splits, captions, and what is left out without label maps."""

import json
import unicodedata

import numpy as np
import pytest
from PIL import Image

from datamodules.folder import Folder
from lumen.__main__ import main
from lumen.config.experiment import load
from lumen.core.errors import BadConfig, DatasetMissing, Note
from lumen.data.photos import hold_out
from lumen.data.source import LoaderConfig
from lumen.runs.data import build_source
from lumen.runs.labels import require_classes, usable_metrics


@pytest.fixture
def folder(tmp_path):
    """Return a function that writes photos of 6 x 4 px by name, and returns the data source of the folder."""

    def write(*names, **arguments):
        for name in names:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((4, 6, 3), len(name) * 5, np.uint8)).save(tmp_path / name)
        return Folder(str(tmp_path), **arguments, loader_config=LoaderConfig(size=8))

    return write


def records_of(source):
    return {record.id: record for split in ("train", "val") for record in source.records(split)}


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_photos_are_found_at_any_depth_under_any_name(folder, tmp_path):
    decomposed = unicodedata.normalize("NFD", "Müller/é 1.jpg")
    source = folder(
        "a.jpg", "b/a.jpg", "b/c/日本 🙂.png", decomposed, "x.WEBP", ".hidden/d.jpg", ".e.jpg", "@eaDir/f.jpg"
    )
    (tmp_path / "notes.pdf").write_bytes(b"no photo")
    assert records_of(source).keys() == {"a.jpg", "b/a.jpg", "b/c/日本 🙂.png", "Müller/é 1.jpg", "x.WEBP"}


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_photos_are_upright_and_grey_of_16_bits_is_read(folder, tmp_path):
    source = folder("a.jpg", "b.png")
    turned = Image.new("RGB", (6, 4), "red")
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(tmp_path / "a.jpg", exif=exif)
    Image.fromarray(np.full((4, 6), 40_000, np.uint16)).save(tmp_path / "b.png")
    parts = {id: source.read(record)["image"] for id, record in records_of(source).items()}
    assert parts["a.jpg"].size == (4, 6) and parts["b.png"].getpixel((0, 0)) == (156, 156, 156)
    assert source.check().ok and not any("EXIF" in note for note in source.check().notes)


def test_photos_that_are_added_move_no_other_photo_into_another_split():
    before = [f"{i}.jpg" for i in range(100)]
    after = [*before, *(f"new/{i}.jpg" for i in range(400))]
    assert hold_out(after, 0.1) & set(before) == hold_out(before, 0.1) and len(hold_out(after, 0.1)) == pytest.approx(
        50, 0.3
    )
    assert [len(hold_out(before[:count], 0.1)) for count in (1, 2, 3, 4)] == [0, 1, 1, 2]
    assert len(hold_out(before, 1.0)) == 99 and len(hold_out(before, 0.0)) == 2


def test_captions_come_from_text_then_metadata_then_json(folder, tmp_path):
    source = folder("a/1.jpg", "a/2.jpg", "b/1.jpg", "b/3.jpg", "4.jpg")
    (tmp_path / "captions.json").write_text(
        json.dumps({"a/1.jpg": "json", "a/2": "json", "3": ["json", "two"], "1": "?"})
    )
    lines = [
        {"file_name": "1.jpg", "text": "metadata"},
        {"file_name": "../a/2.jpg", "text": ""},
        {"file_name": "9.jpg"},
    ]
    (tmp_path / "b/metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (tmp_path / "a/1.txt").write_text("text\n\n second line \n")
    with pytest.warns(Note) as notes:
        captions = {id: record.captions for id, record in records_of(source).items()}
    assert captions == {
        "a/1.jpg": ("text", "second line"), "a/2.jpg": ("json",), "b/1.jpg": ("metadata",), "b/3.jpg": ("json", "two"),
        "4.jpg": (),
    }  # fmt: skip
    words = " ".join(str(note.message) for note in notes)
    assert (
        "1 of 5 photos have no caption, such as 4.jpg" in words and "1 photo that is not there, such as '1'" in words
    )  # two photos are
    assert "metadata.jsonl names 1 photo that is not there, such as '9.jpg'" in words
    (tmp_path / "mine.json").write_text('{"4.jpg": "mine"}')
    with pytest.warns(Note, match="4 of 5 photos"):
        assert records_of(folder(captions=str(tmp_path / "mine.json")))["4.jpg"].captions == ("mine",)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("metadata.jsonl", b'{"file_name": "1.jpg", "text": "a"}\n{"file', "line 2 of"),
        ("metadata.jsonl", b'{"text": "a"}', "file_name"),
        ("1.txt", b"\xff\xfe\xff", "UTF-8"),
        ("captions.json", b'{"nobody": "a"}', "no caption for any"),
        ("captions.json", b'{"1": 3}', "a number as the caption"),
    ],
)
def test_captions_that_cannot_be_used_are_named(name, content, words, folder, tmp_path):
    source = folder("1.jpg", "2.jpg", "3.jpg")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DatasetMissing) as error:
        source.records("train")
    assert words in str(error.value) and name in str(error.value)


@pytest.mark.parametrize(("names", "words"), [([], "no photo"), (["1.jpg"], "one photo")])
def test_folder_of_fewer_than_two_photos_is_refused(names, words, folder):
    with pytest.raises(DatasetMissing, match=words) as error:
        folder(*names).records("train")
    assert "data.root=DIR" in str(error.value)


def test_folder_that_is_missing_is_one_problem(tmp_path):
    source = Folder(str(tmp_path / "none"), loader_config=LoaderConfig(size=8))
    assert len(source.check().problems) == 1 and "data.root=DIR" in str(source.check())
    assert main(["caption", str(tmp_path / "none"), "model=x"]) == 2


def test_photos_in_formats_that_are_not_read_are_noted(folder, tmp_path):
    source = folder("1.jpg", "2.jpg")
    for name in ("3.heic", "4.HEIC"):
        (tmp_path / name).write_bytes(b"")
    with pytest.warns(Note, match=r"2 files such as .*3\.heic"):
        source.records("train")


def test_what_needs_labels_is_left_out_or_refused_without_label_maps(folder):
    folder("1.jpg", "2.jpg", "3.jpg")
    config = load("scenes", [f"data.root={folder().root}", "data=folder"])
    source = build_source(config)
    with pytest.warns(Note, match="leaves out miou without label maps, and tifa without questions"):
        assert usable_metrics(config, source) == ["si_depth", "kid", "lpips"]
    with pytest.raises(BadConfig, match="conditioning=segmap needs label maps, which the data set folder"):
        require_classes(source, "conditioning=segmap")
    scenes = load("scenes")
    assert usable_metrics(scenes, build_source(scenes)) == list(scenes.metrics)


@pytest.mark.long
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_folder_of_photos_trains_and_is_evaluated(folder, tmp_path, monkeypatch, capsys):
    rng = np.random.default_rng(0)
    for i in range(10):
        path = tmp_path / f"photos/{i}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (30, 40, 3), np.uint8)).save(path)
    monkeypatch.chdir(tmp_path)
    small = [
        "size=32",
        "diffusion.weights=none",
        "batch=2",
        "conditioning.vectors=60",
        "steps=2",
        "warmup=1",
        "wandb=disabled",
    ]
    small += ["sampling.steps=1", "sampling.images=1", "measure.anchors=[real]", "metrics=[miou,lpips]"]
    assert main(["train", "scenes", "data=folder", "data.root=photos", "data.fit=pad", *small]) == 0
    (run,) = tmp_path.glob("runs/scenes/*/seed0")
    results = json.loads((run / "metrics.json").read_text())
    assert "test/lpips-scenes" in results and not any("miou" in key for key in results)
    small.remove("conditioning.vectors=60")
    assert main(["train", "scenes", "data=folder", "data.root=photos", "conditioning=segmap", *small]) == 2
    assert "conditioning=segmap needs label maps" in " ".join(capsys.readouterr().err.split())
    assert len(list(tmp_path.glob("runs/scenes/*"))) == 1
