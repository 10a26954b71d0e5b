"""Pixels of odd image files: scaled by a rule, upright where a photo is meant, or refused by name."""

import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from lumen.core.errors import BadSample
from lumen.data.index import DatasetIndex
from lumen.data.integrity import check_dataset
from lumen.data.readers import read_boxes, read_disparity, read_image, read_json, read_label_map, read_photo
from lumen.runs.photos import load_photo

DEEP = np.linspace(0, 65535, 48 * 32).astype(np.uint16).reshape(32, 48)
BYTES = (DEEP >> 8).astype(np.uint8)
ORIENTATION = 0x0112


@pytest.mark.parametrize("read", [read_image, read_photo])
@pytest.mark.parametrize("name", ["deep.png", "deep.tif", "deep.jp2", "deep.pgm", "clear.png"])
def test_image_of_16_bits_is_scaled_by_its_upper_bits(name, read, tmp_path):
    image = Image.fromarray(DEEP.astype(np.int32) if name == "deep.pgm" else DEEP)
    image.save(tmp_path / name, **({"transparency": 0} if name == "clear.png" else {}))
    expected = BYTES.copy()
    if name == "clear.png":
        expected[DEEP == 0] = 255  # transparency is composed on white
    assert np.array_equal(np.asarray(read(tmp_path / name)), np.stack([expected] * 3, -1))


@pytest.mark.parametrize("read", [read_image, read_photo])
@pytest.mark.parametrize(("dtype", "suffix"), [(np.float32, "tif"), (np.int32, "tif"), (np.float32, "pfm")])
def test_image_without_a_known_white_is_refused(dtype, suffix, read, tmp_path):
    Image.fromarray((DEEP / 65535).astype(dtype)).save(tmp_path / f"x.{suffix}")
    with pytest.raises(BadSample, match=rf"x\.{suffix}.*white"):
        read(tmp_path / f"x.{suffix}")


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "PA", "RGBA", "RGBX", "CMYK", "LAB", "YCbCr"])
def test_image_of_8_bits_is_read_as_ever(mode, tmp_path):
    suffix = "png" if mode in ("1", "L", "P", "LA", "RGBA") else "tif"
    Image.fromarray(BYTES).convert("RGB").convert("L" if mode == "LAB" else mode if mode != "PA" else "P").save(
        tmp_path / f"x.{suffix}"
    )
    with Image.open(tmp_path / f"x.{suffix}") as image:
        expected = image.convert("RGBA").convert("RGB") if image.has_transparency_data else image.convert("RGB")
    assert np.array_equal(np.asarray(read_image(tmp_path / f"x.{suffix}")), np.asarray(expected))


def save_turned(path, orientation) -> Image.Image:
    """Write an upright picture as a camera that was held otherwise stores it, and return the upright picture."""
    upright = Image.fromarray(BYTES).convert("RGB")
    undo = {2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE", 6: "ROTATE_90",
            7: "TRANSVERSE", 8: "ROTATE_270"}.get(orientation)  # fmt: skip
    stored = upright.transpose(Image.Transpose[undo]) if undo else upright
    exif = stored.getexif()
    exif[ORIENTATION] = orientation
    stored.save(path, exif=exif)
    return upright


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif"])
@pytest.mark.parametrize("orientation", [0, 1, 2, 3, 4, 5, 6, 7, 8, 9])
def test_photo_is_upright_and_an_image_of_a_data_set_as_stored(orientation, suffix, tmp_path):
    path = tmp_path / f"x.{suffix}"
    upright = np.asarray(save_turned(path, orientation), float)
    assert abs(np.asarray(read_photo(path), float) - upright).mean() < 6  # of 255; JPEG loses some
    with Image.open(path) as stored:
        assert read_image(path).size == stored.size
    pixels = (load_photo(path, 16).image[0].permute(1, 2, 0).numpy() + 1) * 127.5
    assert abs(pixels - np.asarray(Image.fromarray(upright.astype(np.uint8)).resize((16, 16)), float)).mean() < 12


def test_photo_with_damaged_metadata_is_read_without_a_warning(tmp_path):
    damage = [b"garbage", b"II*\0\x08\0\0\0\xff\xff", b"MM\0*\0\0\0\x08\0\x01\x01\x12", b""]
    for i, exif in enumerate(damage):
        Image.fromarray(BYTES).save(tmp_path / f"{i}.jpg", exif=b"Exif\0\0" + exif)
    code = (
        "import sys, pathlib; from lumen.data.readers import read_photo; "
        "print([read_photo(path).size for path in pathlib.Path(sys.argv[1]).glob('*.jpg')])"
    )
    result = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True)
    assert result.stdout.strip() == str([(48, 32)] * 4) and result.stderr == ""


@pytest.mark.parametrize("orientation", [1, 6])
def test_check_notes_images_that_viewers_turn(orientation, tmp_path):
    save_turned(tmp_path / "x.jpg", orientation)
    index = DatasetIndex(tmp_path)
    index.files = {"image": {"x": tmp_path / "x.jpg"}, "mask": {"x": tmp_path / "x.jpg"}}
    report = check_dataset("mine", tmp_path, {"train": index}, {"image": read_image, "mask": read_image})
    assert report.ok and ["as stored" in note for note in report.notes] == [True] * (orientation == 6)


@pytest.mark.parametrize("kind", ["pipe", "device", "directory", "missing", "empty", "text", "huge"])
@pytest.mark.parametrize("read", [read_photo, read_image, read_disparity, read_json, read_label_map])
def test_reader_refuses_what_is_no_file_of_its_kind(kind, read, tmp_path, monkeypatch):
    path = tmp_path / "x.jpg"
    {
        "pipe": os.mkfifo,
        "directory": os.mkdir,
        "device": lambda path: path.symlink_to("/dev/zero"),
        "missing": lambda path: None,
        "empty": lambda path: path.touch(),
        "text": lambda path: path.write_text("<html>"),
        "huge": lambda path: Image.new("L", (64, 64)).save(path),
    }[kind](path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(BadSample, match=r"x\.jpg.*;.*\.$"):
        read(path, **({"table": np.zeros(256, np.int16)} if read is read_label_map else {}))


@pytest.mark.parametrize("mode", ["L", "RGB", "F", "1"])
def test_disparity_of_other_pixels_is_refused(mode, tmp_path):
    Image.new(mode, (4, 4)).save(tmp_path / "x.tif")
    with pytest.raises(BadSample, match=f"pixels are {mode}"):
        read_disparity(tmp_path / "x.tif")


@pytest.mark.parametrize(
    "content",
    [
        "[]", "3", "{}", '{"objects": 3}', '{"objects": {}}', '{"objects": [3]}', "[" * 100_000,
        '{"objects": [{"label": "car", "2d": {"amodal": [1, 2, 3, 4]}}]}',
        '{"objects": [{"label": "car", "2d": {"amodal": [1, 2, 3, 4]}, "3d": {"center": [1, 2], "dimensions": [1, 2, '
        '3], "rotation": [1, 0, 0, 0]}}]}',
        '{"objects": [], "ignore": [{"label": "cargroup"}]}',
    ],
)  # fmt: skip
def test_boxes_of_another_form_are_refused(content, tmp_path):
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(BadSample, match=r"x\.json"):
        read_boxes(tmp_path / "x.json")
