"""What users' disks really hold: each fault is named with its file, its reason and the next step."""

import json
import shutil
import warnings

import numpy as np
import pytest
from PIL import Image

from lumen.core.errors import BadSample, DatasetMissing
from lumen.core.registry import datamodules
from lumen.data import readers as _files

ON_DISK = [name for name in datamodules.names() if "root" in datamodules.arguments(name)]
STRANGE = {"coco_stuff": 11, "ade20k": 200, "cityscapes": 40, "bdd100k": 19}


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def files(data, index=0, split="train"):
    return data.records(split)[index].files


@pytest.mark.parametrize("name", ON_DISK)
def test_check_names_every_fault_at_once(name, build, tmp_path):
    data = build(name)
    train, val = data.records("train"), data.records("val")
    said = {record.id: "a caption" for record in train + val}
    broken = [train[i].files for i in range(6)]
    cut(broken[0]["image"])
    cut(broken[0]["mask"])
    broken[1]["image"].write_text("<html>404 Not Found</html>")
    Image.new("L", (7, 5)).save(broken[2]["mask"])
    Image.fromarray(np.full((64, 64), STRANGE[name], np.uint8)).save(broken[3]["mask"])
    broken[4]["mask"].unlink()
    broken[5]["image"].unlink()
    val[0].files["mask"].write_bytes(b"")
    Image.open(val[1].files["image"]).save(val[1].files["mask"])
    del said[val[2].id]
    said[train[2].id] = "  "
    captions = tmp_path / "mine.json"
    captions.write_text(json.dumps(said))

    report = build(name, captions=str(captions)).check()
    expected = [
        (broken[0]["image"], "cannot be read"),
        (broken[0]["mask"], "cannot be read"),
        (broken[1]["image"], "is no"),
        (broken[2]["mask"], "7x5 pixels"),
        (broken[3]["mask"], f"label id {STRANGE[name]}"),
        (broken[4]["image"], "has no label map"),
        (broken[5]["mask"], "has no image"),
        (val[0].files["mask"], "is no .png file"),
        (val[1].files["mask"], "not one byte"),
        (val[2].id, "has no caption"),
        (train[2].id, "empty caption"),
    ]
    for what, reason in expected:
        assert any(str(what) in p and reason in p for p in report.problems), (what, reason, report.problems)
    assert not report.ok and all(p.endswith(".") and ";" in p for p in report.problems)
    # broken[3] is of another size as well: that fault is only seen once its ids are right.
    assert len(report.problems) == len(expected)
    assert all(problem in str(report) for problem in report.problems)


@pytest.mark.parametrize("name", ON_DISK)
@pytest.mark.parametrize("workers", [0, 2])
def test_training_on_a_broken_file_is_one_sentence_from_a_worker_too(name, workers, build):
    data = build(name, loading={"workers": workers})
    image = files(data)["image"]
    cut(image)
    with pytest.raises(BadSample) as error:
        list(data.train_dataloader())
    message = str(error.value)
    assert str(image) in message and f"lumen data check {name} root=" in message
    assert "Traceback" not in message and "\n" not in message


@pytest.mark.parametrize("name", ON_DISK)
@pytest.mark.parametrize("kind", ["image", "mask"])
def test_half_a_data_set_says_which_half(name, kind, build, tmp_path):
    data = build(name)
    folder = next(
        p for p in tmp_path.rglob("*") if p.is_dir() and p in files(data)[kind].parents and p.parent != tmp_path
    )
    shutil.rmtree(folder)
    with pytest.raises(DatasetMissing, match=f"with the {kind} files; unpack|holds no") as error:
        build(name).records("train")
    # Said once, and not again for each image that now lacks its partner.
    assert len(str(error.value)) < 500
    assert len(build(name).check().problems) in (1, 2)


@pytest.mark.parametrize("name", ON_DISK)
def test_an_orphan_is_an_error_before_training_starts(name, build):
    files(build(name), 1)["mask"].unlink()
    with pytest.raises(DatasetMissing, match="has no label map; restore"):
        build(name).train_dataloader()
    assert build(name).val_dataloader()


@pytest.mark.parametrize("name", ON_DISK)
def test_many_faults_are_counted_and_the_first_are_named(name, build, tmp_path):
    build(name)
    captions = tmp_path / "few.json"
    captions.write_text('{"somebody else": "a caption"}')
    with pytest.raises(DatasetMissing, match=r"6 problems in all: `lumen data check") as error:
        build(name, captions=str(captions)).records("train")
    assert str(error.value).count("has no caption for") == 3


@pytest.mark.parametrize("name", ON_DISK)
def test_without_captions_the_prompts_are_empty_and_that_is_said_once(name, build, tmp_path):
    build(name)
    for path in list(tmp_path.rglob("captions*.json")):
        path.unlink()
    data = build(name)
    with pytest.warns(UserWarning, match="the prompts are empty"):
        batch = next(iter(data.train_dataloader()))
    assert set(batch.caption) == {""}
    with warnings.catch_warnings(action="error"):
        data.train_dataloader()
    assert data.check().ok and data.check().notes


@pytest.mark.parametrize("name", ON_DISK)
@pytest.mark.parametrize("content", ["", "{", "[1, 2]", '{"a": 3}', '{"annotations": [{}], "images": []}', "\ud800"])
def test_a_captions_file_that_is_none(name, content, build, tmp_path):
    build(name)
    captions = tmp_path / "mine.json"
    captions.write_bytes(content.encode(errors="surrogatepass"))
    with pytest.raises(DatasetMissing, match=r"mine\.json"):
        build(name, captions=str(captions)).records("val")
    with pytest.raises(DatasetMissing, match=r"no captions file .*none\.json"):
        build(name, captions=str(tmp_path / "none.json")).records("val")


def test_one_empty_caption_of_several_is_passed_over_and_noted(build, tmp_path):
    build("coco_stuff")
    path = tmp_path / "annotations/captions_val2017.json"
    content = json.loads(path.read_text())
    content["annotations"][0]["caption"] = "\n"
    path.write_text(json.dumps(content))
    data = build("coco_stuff")
    with pytest.warns(UserWarning, match="an empty caption of 000000000139"):
        assert data.records("val")[0].captions == ("a second picture of things and stuff",)
    assert data.check().ok


def test_a_grey_photo_simply_works(build):
    data = build("coco_stuff")
    path = files(data)["image"]
    Image.open(path).convert("L").save(path)
    image = data.dataset("train")[0]["image"]
    assert image.shape == (3, 32, 32) and (image[0] == image[2]).all() and data.check().ok


def test_transparency_is_laid_on_white(build):
    data = build("cityscapes")
    path = files(data)["image"]
    image = Image.open(path).convert("RGBA")
    image.putalpha(Image.new("L", image.size, 0))
    image.save(path)
    assert (data.dataset("train")[0]["image"] == 255).all() and data.check().ok


def test_a_palette_label_map_is_read_by_its_indices(build):
    data = build("coco_stuff")
    path, before = files(data)["mask"], data.dataset("train")[0]["mask"]
    image = Image.open(path)
    image.putpalette(np.random.default_rng(0).integers(0, 256, 768, np.uint8).tobytes())
    image.save(path)
    assert Image.open(path).mode == "P" and (data.dataset("train")[0]["mask"] == before).all()


def test_converted_maps_beside_the_official_ones_are_left_alone(build):
    data = build("coco_stuff")
    path = files(data)["mask"]
    Image.new("L", (3, 3), 254).save(path.with_name(f"{path.stem}_labelTrainIds.png"))
    assert build("coco_stuff").check().ok and build("coco_stuff").fingerprint() == data.fingerprint()


def test_hidden_files_are_no_part_of_a_data_set(build):
    path = files(build("ade20k"))["image"]
    path.with_name(f"._{path.name}").write_bytes(b"what macOS leaves in archives")
    assert build("ade20k").check().ok


def test_both_layouts_of_coco_are_accepted(build, tmp_path):
    before = build("coco_stuff")
    fingerprint = before.fingerprint()
    for part in ("train2017", "val2017"):
        (tmp_path / "images" / part).rename(tmp_path / part)
        (tmp_path / "stuffthingmaps" / part).rename(tmp_path / "annotations" / part)
    assert build("coco_stuff").check().ok and build("coco_stuff").fingerprint() == fingerprint


@pytest.mark.parametrize(("name", "folder"), [("ade20k", "ADEChallengeData2016"), ("bdd100k", "bdd100k")])
def test_a_data_set_is_found_from_its_own_folder_and_from_the_one_around_it(name, folder, build, tmp_path):
    around = build(name)
    inside = build(name, root=tmp_path / folder)
    assert inside.fingerprint() == around.fingerprint() and inside.check().ok


@pytest.mark.parametrize("kind", ["disparity", "camera", "boxes"])
def test_a_broken_extra_of_cityscapes_is_named(kind, build):
    path = files(build("cityscapes"))[kind]
    cut(path)
    report = build("cityscapes").check()
    assert [str(path) in p for p in report.problems] == [True]


def test_cityscapes_reads_disparity_camera_and_boxes_where_present(build):
    data = build("cityscapes", loading={"batch": 3})
    stored = np.asarray(Image.open(files(data, 0, "val")["disparity"])).astype(float)
    read = np.asarray(_files.disparity(files(data, 0, "val")["disparity"]))
    assert np.allclose(read[stored > 0], (stored[stored > 0] - 1) / 256) and np.isnan(read[stored == 0]).all()
    extra = next(iter(data.val_dataloader())).extra
    assert extra["boxes"][1] is None and extra["boxes"][0][0]["label"] == "car"
    assert extra["camera"][0]["intrinsic"]["fx"] == 141.4 and extra["disparity"][2].shape == (32, 32)
