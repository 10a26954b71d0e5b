"""Files below a directory of a data set: what belongs to it, and what is a problem."""

import os
from pathlib import Path

import pytest

from lumen.data.index import DatasetIndex
from lumen.data.tree import files_by_stem

SUFFIXES = (".jpg", ".png")


def write(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(path.name.encode())
    return path


@pytest.fixture
def images(tmp_path):
    """A directory of two images, beside others of its data set."""
    directory = tmp_path / "data/images"
    for name in ("a.jpg", "part/b.JPG"):
        write(directory / name)
    return directory


@pytest.mark.parametrize(
    "name",
    [
        ".ipynb_checkpoints/a-checkpoint.jpg", "@eaDir/a.jpg/SYNOPHOTO_THUMB_M.jpg", "part/@eaDir/b.jpg",
        "__MACOSX/._a.jpg", "__MACOSX/a.jpg", ".AppleDouble/a.jpg", ".@__thumb/a.jpg", "@Recycle/c.jpg",
        "#recycle/c.jpg", "$RECYCLE.BIN/c.jpg", "System Volume Information/c.jpg", "lost+found/c.jpg",
        ".Trash-1000/files/c.jpg", ".git/annex/objects/c.jpg", "._a.jpg", ".c.jpg", "Thumbs.db", "c.jpg.part",
    ],
)  # fmt: skip
def test_tree_passes_over_what_tools_leave(name, images):
    write(images / name)
    files, problems = files_by_stem(images, SUFFIXES)
    assert {stem: path.relative_to(images).as_posix() for stem, path in files.items()} == {
        "a": "a.jpg",
        "b": "part/b.JPG",
    }
    assert problems == []


@pytest.mark.parametrize("name", ["a.png", "copy/a.jpg", "part/a.JPG", "thumbs/b.jpg", "part/b.png"])
def test_tree_names_both_files_of_one_name(name, images):
    other = write(images / name)
    _, problems = files_by_stem(images, SUFFIXES)
    assert len(problems) == 1 and str(other) in problems[0]
    assert str(images / ("a.jpg" if other.stem == "a" else "part/b.JPG")) in problems[0]


@pytest.mark.parametrize(
    ("link", "target", "stems"),
    [
        ("linked", "../../store", {"a", "b", "s"}),  # a directory elsewhere
        ("c.jpg", "../../store/s.jpg", {"a", "b", "c"}),  # a file elsewhere
        ("deep", "../../chain", {"a", "b", "s"}),  # a link to a link
        ("again", "part", {"a", "b"}),  # a directory beside it counts once
        ("self", ".", {"a", "b"}),
        ("part/up", "..", {"a", "b"}),
        ("above", "../..", {"a", "b"}),  # a circle: the directory lies below it
        ("README.md", "nowhere", {"a", "b"}),  # is no image in any case
    ],
)
def test_tree_follows_links(link, target, stems, images, tmp_path):
    write(tmp_path / "store/s.jpg")
    (tmp_path / "chain").symlink_to("store")
    (images / link).symlink_to(target)
    files, problems = files_by_stem(images, SUFFIXES)
    assert set(files) == stems and problems == []
    assert files["b"] == images / "part/b.JPG"  # the path without links, whatever the order of names


def test_tree_of_a_linked_directory_leaves_out_what_is_around_the_link(images, tmp_path):
    write(tmp_path / "data/masks/a.png")
    images.rename(tmp_path / "store")
    images.symlink_to(tmp_path / "store")
    (tmp_path / "store/around").symlink_to(tmp_path / "data")
    files, problems = files_by_stem(images, SUFFIXES)
    assert files == {"a": images / "a.jpg", "b": images / "part/b.JPG"} and problems == []


@pytest.mark.parametrize("name", ["c.jpg", "part2", "loop.jpg", "loop"])
def test_tree_names_links_to_nothing(name, images):
    (images / name).symlink_to(name if "loop" in name else "/nowhere/else")
    files, problems = files_by_stem(images, SUFFIXES)
    assert set(files) == {"a", "b"} and len(problems) == 1 and str(images / name) in problems[0]


@pytest.mark.parametrize("kind", ["pipe", "device", "directory"])
def test_tree_takes_regular_files_only(kind, images):
    path = images / "c.jpg"
    {"pipe": os.mkfifo, "directory": os.mkdir, "device": lambda path: path.symlink_to("/dev/zero")}[kind](path)
    files, problems = files_by_stem(images, SUFFIXES)
    assert set(files) == {"a", "b"}
    assert [str(path) in problem for problem in problems] == [True] * (kind != "directory")


def test_tree_names_a_file_whose_name_is_not_unicode(images):
    os.rename(images / "a.jpg", os.fsencode(images) + b"/\xff.jpg")
    files, problems = files_by_stem(images, SUFFIXES)
    assert set(files) == {"b"} and len(problems) == 1


def test_tree_names_a_directory_that_cannot_be_read(images, monkeypatch):
    def scandir(path, real=os.scandir):
        if Path(path).name == "part":
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    files, problems = files_by_stem(images, SUFFIXES)
    assert set(files) == {"a"} and len(problems) == 1 and str(images / "part") in problems[0]


@pytest.mark.parametrize("name", ["a.jpg", "x.jpg"])
def test_index_takes_one_of_two_directories_only_if_both_hold_the_same_images(name, images):
    index = DatasetIndex(images.parent)
    write(images.parent / "other" / name)
    write(images.parent / "other/b.jpg")
    (images.parent / "empty").mkdir()
    index.add_files("image", SUFFIXES, "missing", "empty", "images", "other")
    assert set(index.files["image"]) == {"a", "b"} and index.files["image"]["a"].parent == images
    assert [str(images) in p and "other" in p for p in index.problems] == [True] * (name == "x.jpg")


@pytest.mark.parametrize(("image", "mask"), [(None, None), ("a.jpg", None), ("a.jpg", "b.png"), (None, "a.png")])
def test_index_without_any_pair_is_a_problem(image, mask, tmp_path):
    """Also where a data set adds files of its own."""
    index = DatasetIndex(tmp_path)
    for kind, name in (("image", image), ("mask", mask)):
        index.files[kind] = {Path(name).stem: tmp_path / name} if name else {}
    assert [*index.match_records()] == [] and index.problems


@pytest.mark.parametrize("suffix", ["_labelTrainIds.png", ".png.bak", ".npy"])
def test_index_without_a_readable_label_map_is_a_problem(suffix, images):
    for stem in "ab":
        write(images.parent / f"masks/{stem}{suffix}")
    index = DatasetIndex(images.parent)
    index.add_files("image", SUFFIXES, "images")
    index.add_files("mask", (".png",), "masks", exclude=("_labelTrainIds.png",))
    assert [*index.match_records()] == [] and [str(images.parent / "masks") in p for p in index.problems] == [True]
