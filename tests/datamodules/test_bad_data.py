"""Faults of data sets on users' disks: each is named with its file, the reason and the next step."""

import json
import shutil
import warnings

import numpy as np
import pytest
from PIL import Image

from lumen.core.errors import BadSample, DatasetMissing
from lumen.core.registry import datamodules
from lumen.data.readers import read_disparity

ON_DISK = [name for name in datamodules.names() if "root" in datamodules.arguments(name)]
LABELLED = [name for name in ON_DISK if datamodules.literal(name, "has_labels", True)]
UNKNOWN_IDS = {"coco_stuff": 11, "ade20k": 200, "cityscapes": 40, "bdd100k": 19, "acdc": 19}


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def files_of(source, index=0, split="train"):
    return source.records(split)[index].files


@pytest.mark.parametrize("name", LABELLED)
def test_check_names_all_faults(name, build_source, tmp_path):
    source = build_source(name)
    train, val = source.records("train"), source.records("val")
    captions = {record.id: "a caption" for record in [*train, *val]}
    files = [train[i].files for i in range(6)]
    truncate(files[0]["image"])
    truncate(files[0]["mask"])
    files[1]["image"].write_text("<html>404 Not Found</html>")
    Image.new("L", (7, 5)).save(files[2]["mask"])
    Image.fromarray(np.full((64, 64), UNKNOWN_IDS[name], np.uint8)).save(files[3]["mask"])
    files[4]["mask"].unlink()
    files[5]["image"].unlink()
    val[0].files["mask"].write_bytes(b"")
    Image.open(val[1].files["image"]).save(val[1].files["mask"])
    del captions[val[2].id]
    captions[train[2].id] = "  "
    captions_file = tmp_path / "mine.json"
    captions_file.write_text(json.dumps(captions))

    report = build_source(name, captions=str(captions_file)).check()
    expected = [
        (files[0]["image"], "cannot be read"),
        (files[0]["mask"], "cannot be read"),
        (files[1]["image"], "is no"),
        (files[2]["mask"], "7x5 pixels"),
        (files[3]["mask"], f"label id {UNKNOWN_IDS[name]}"),
        (files[4]["image"], "has no label map"),
        (files[5]["mask"], "has no image"),
        (val[0].files["mask"], "is empty"),
        (val[1].files["mask"], "not one byte"),
        (val[2].id, "has no caption"),
        (train[2].id, "empty caption"),
    ]
    for item, reason in expected:
        assert any(str(item) in p and reason in p for p in report.problems), (item, reason, report.problems)
    assert not report.ok and all(problem.endswith(".") and ";" in problem for problem in report.problems)
    # The label map of files[3] has another size as well. That fault is reported once its ids are right.
    assert len(report.problems) == len(expected)
    assert all(problem in str(report) for problem in report.problems)


@pytest.mark.parametrize("name", ON_DISK)
@pytest.mark.parametrize("workers", [0, 2])
def test_loader_raises_one_sentence_for_a_broken_file(name, workers, build):
    data = build(name, loader={"workers": workers})
    image = files_of(data.source)["image"]
    truncate(image)
    with pytest.raises(BadSample) as error:
        list(data.train_dataloader())
    message = str(error.value)
    assert str(image) in message and f"lumen data check {name} root=" in message
    assert "Traceback" not in message and "\n" not in message


@pytest.mark.parametrize("name", LABELLED)
@pytest.mark.parametrize("kind", ["image", "mask"])
def test_missing_directory_is_one_problem(name, kind, build_source, tmp_path):
    source = build_source(name)
    parents = files_of(source)[kind].parents
    directory = next(p for p in tmp_path.rglob("*") if p.is_dir() and p in parents and p.parent != tmp_path)
    shutil.rmtree(directory)
    with pytest.raises(DatasetMissing, match=f"with the {kind} files|archive of {kind} files") as error:
        build_source(name).records("train")
    # It is not repeated for each image that now has no partner.
    assert len(str(error.value)) < 500
    assert len(build_source(name).check().problems) in (1, 2)


@pytest.mark.parametrize("name", LABELLED)
def test_image_without_label_map_is_an_error_before_training(name, build):
    files_of(build(name).source, 1)["mask"].unlink()
    with pytest.raises(DatasetMissing, match="has no label map"):
        build(name).train_dataloader()
    assert build(name).val_dataloader()


@pytest.mark.parametrize("name", LABELLED)
def test_missing_captions_become_a_single_sentence_with_their_number(name, build_source, tmp_path):
    records = build_source(name).records("train")
    captions = tmp_path / "few.json"
    captions.write_text(json.dumps({"somebody else": "a caption"}))
    with pytest.raises(DatasetMissing) as error:
        build_source(name, captions=str(captions)).records("train")
    assert all(part in str(error.value) for part in ("somebody else", "6 images", records[0].id))
    # With one of six captions, the five that are missing are few enough to be named by the check.
    captions.write_text(json.dumps({records[0].id: "a caption"}))
    source = build_source(name, captions=str(captions))
    with pytest.raises(DatasetMissing, match=r"5 problems in all: `lumen data check .* --all"):
        source.records("train")
    named = str(source.check()).count("has no caption for")
    assert named == 5 + 1  # and a sentence for all of the other split


@pytest.mark.parametrize("name", ON_DISK)
def test_missing_captions_file_warns_and_prompts_are_empty(name, build, tmp_path):
    build(name)
    for path in list(tmp_path.rglob("captions*.json")):
        path.unlink()
    data = build(name)
    with pytest.warns(UserWarning, match="the prompts are empty"):
        batch = next(iter(data.train_dataloader()))
    assert set(batch.caption) == {""}
    with warnings.catch_warnings(action="error"):
        data.train_dataloader()
    assert data.source.check().ok and data.source.check().notes


@pytest.mark.parametrize("name", ON_DISK)
@pytest.mark.parametrize("content", ["", "{", "[1, 2]", '{"a": 3}', '{"annotations": [{}], "images": []}', "\ud800"])
def test_captions_file_of_another_format_is_named(name, content, build_source, tmp_path):
    build_source(name)
    captions = tmp_path / "mine.json"
    captions.write_bytes(content.encode(errors="surrogatepass"))
    with pytest.raises(DatasetMissing, match=r"mine\.json"):
        build_source(name, captions=str(captions)).records("val")
    with pytest.raises(DatasetMissing, match=r"none\.json"):
        build_source(name, captions=str(tmp_path / "none.json")).records("val")


def test_empty_caption_among_others_is_noted(build_source, tmp_path):
    build_source("coco_stuff")
    path = tmp_path / "annotations/captions_val2017.json"
    content = json.loads(path.read_text())
    content["annotations"][0]["caption"] = "\n"
    path.write_text(json.dumps(content))
    source = build_source("coco_stuff")
    with pytest.warns(UserWarning, match="an empty caption of 000000000139"):
        assert source.records("val")[0].captions == ("a second picture of things and stuff",)
    assert source.check().ok


def test_grey_image_becomes_rgb(build):
    data = build("coco_stuff")
    path = files_of(data.source)["image"]
    Image.open(path).convert("L").save(path)
    image = data.dataset("train")[0]["image"]
    assert image.shape == (3, 32, 32) and (image[0] == image[2]).all() and data.source.check().ok


def test_transparent_image_is_composed_on_white(build):
    data = build("cityscapes")
    path = files_of(data.source)["image"]
    image = Image.open(path).convert("RGBA")
    image.putalpha(Image.new("L", image.size, 0))
    image.save(path)
    assert (data.dataset("train")[0]["image"] == 255).all() and data.source.check().ok


def test_label_map_with_a_palette_is_read_by_its_indices(build):
    data = build("coco_stuff")
    path, expected = files_of(data.source)["mask"], data.dataset("train")[0]["mask"]
    image = Image.open(path)
    image.putpalette(np.random.default_rng(0).integers(0, 256, 768, np.uint8).tobytes())
    image.save(path)
    assert Image.open(path).mode == "P" and (data.dataset("train")[0]["mask"] == expected).all()


def test_index_ignores_converted_label_maps(build_source):
    source = build_source("coco_stuff")
    path = files_of(source)["mask"]
    Image.new("L", (3, 3), 254).save(path.with_name(f"{path.stem}_labelTrainIds.png"))
    assert build_source("coco_stuff").check().ok
    assert build_source("coco_stuff").fingerprint() == source.fingerprint()


def test_index_ignores_hidden_files(build_source):
    path = files_of(build_source("ade20k"))["image"]
    path.with_name(f"._{path.name}").write_bytes(b"metadata that macOS adds to archives")
    assert build_source("ade20k").check().ok


def test_index_accepts_both_directory_layouts_of_coco(build_source, tmp_path):
    fingerprint = build_source("coco_stuff").fingerprint()
    for part in ("train2017", "val2017"):
        (tmp_path / "images" / part).rename(tmp_path / part)
        (tmp_path / "stuffthingmaps" / part).rename(tmp_path / "annotations" / part)
    assert build_source("coco_stuff").check().ok and build_source("coco_stuff").fingerprint() == fingerprint


@pytest.mark.parametrize(("name", "directory"), [("ade20k", "ADEChallengeData2016"), ("bdd100k", "bdd100k")])
def test_index_accepts_the_directory_and_its_parent(name, directory, build_source, tmp_path):
    outer = build_source(name)
    inner = build_source(name, root=tmp_path / directory)
    assert inner.fingerprint() == outer.fingerprint() and inner.check().ok


@pytest.mark.parametrize("kind", ["disparity", "camera", "boxes"])
def test_check_names_a_broken_annotation_of_cityscapes(kind, build_source):
    path = files_of(build_source("cityscapes"))[kind]
    truncate(path)
    report = build_source("cityscapes").check()
    assert [str(path) in problem for problem in report.problems] == [True]


def test_cityscapes_annotations_are_optional(build):
    data = build("cityscapes", loader={"batch_size": 3})
    path = files_of(data.source, 0, "val")["disparity"]
    stored, disparity = np.asarray(Image.open(path)).astype(float), np.asarray(read_disparity(path))
    assert np.allclose(disparity[stored > 0], (stored[stored > 0] - 1) / 256) and np.isnan(disparity[stored == 0]).all()
    extra = next(iter(data.val_dataloader())).extra
    boxes = extra["boxes"][0]
    assert extra["boxes"][1] is None and boxes["objects"][0]["label"] == "car" and boxes["objects"][0]["score"] == 1
    assert len(boxes["ignore"]) == 1 and np.shape(boxes["sensor"]["sensor_T_ISO_8855"]) == (3, 4)
    assert extra["camera"][0]["intrinsic"]["fx"] == 141.4 and extra["disparity"][2].shape == (32, 32)


@pytest.mark.parametrize("directory", ["rgb_anon/rain", "gt/rain/val", "rgb_anon/rain/train"])
def test_acdc_without_a_condition_is_one_problem_that_names_it(directory, build_source, tmp_path):
    build_source("acdc")
    shutil.rmtree(tmp_path / directory)
    (problem,) = build_source("acdc").check().problems
    assert str(tmp_path / directory) in problem
    others = build_source("acdc", conditions=["fog", "night", "snow"])
    assert others.check().ok and {others.domain(record) for record in others.records("val")} == {"fog", "night", "snow"}


def test_acdc_condition_that_is_missing_may_be_left_out(build_source, tmp_path):
    build_source("acdc")
    shutil.rmtree(tmp_path / "rgb_anon/rain")
    with pytest.raises(DatasetMissing, match=r"data\.conditions=\[fog,night,snow\]"):
        build_source("acdc").records("val")


def test_acdc_names_two_conditions_with_images_of_one_name(build_source, tmp_path):
    source = build_source("acdc")
    for path in source.records("val")[0].files.values():
        copy = tmp_path / path.relative_to(tmp_path).as_posix().replace("/fog/", "/snow/")
        copy.parent.mkdir(exist_ok=True)
        shutil.copy(path, copy)
    assert len([p for p in build_source("acdc").check().problems if "/fog/" in p and "/snow/" in p]) == 2


def test_acdc_archives_may_be_unpacked_into_folders_of_their_names(build_source, tmp_path):
    expected = [record.id for record in build_source("acdc").records("train")]
    for archive, directory in (("rgb_anon_trainvaltest", "rgb_anon"), ("gt_trainval", "gt")):
        (tmp_path / archive).mkdir()
        (tmp_path / directory).rename(tmp_path / archive / directory)
    assert [record.id for record in build_source("acdc").records("train")] == expected
