"""Captions of a file: text for the images that there are, or a sentence."""

import json
from pathlib import Path

import pytest

from lumen.data.index import DatasetIndex

STEMS = ["000000000009", "häuser.2", "c"]
ALL = dict.fromkeys(STEMS, ("a dog",))
OFFICIAL = {
    "images": [{"id": i, "file_name": f"{stem}.jpg"} for i, stem in enumerate(STEMS)],
    "annotations": [{"image_id": i, "caption": "a dog"} for i in range(len(STEMS))],
}


def official(kind: str, position: int | None = None, **changes) -> dict:
    """Return captions in COCO's format, in which the entries of a kind are changed: that at a position, or all."""
    content = json.loads(json.dumps(OFFICIAL))
    for entry in content[kind] if position is None else [content[kind][position]]:
        entry |= {key: change(entry[key]) if callable(change) else change for key, change in changes.items()}
    return content


def index_with(content: bytes | object, directory: Path) -> tuple[dict[str, tuple[str, ...]], list[str]]:
    """Return the captions by image, and the problems, of a data set with this captions file."""
    file = directory / "mine.json"
    file.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    index = DatasetIndex(directory)
    for kind in ("image", "mask"):
        index.files[kind] = {stem: directory / f"{stem}.jpg" for stem in STEMS}
    index.add_captions(str(file), "")
    return {record.id: record.captions for record in index.match_records()}, index.problems


PLAIN = dict.fromkeys(STEMS, "a dog")


@pytest.mark.parametrize(
    "content",
    [
        PLAIN,
        {stem: [" a dog\n"] for stem in STEMS},
        {f"{stem}.jpg": "a dog" for stem in STEMS},
        PLAIN | {"of another split": None, "_info": {"year": 2024}},
        json.dumps(PLAIN, ensure_ascii=False).encode("utf-8-sig"),
        json.dumps(PLAIN, ensure_ascii=False).encode("utf-16"),
        json.dumps(PLAIN, ensure_ascii=False).encode("utf-16-be"),
        json.dumps(PLAIN, ensure_ascii=False).encode("utf-32"),
        OFFICIAL,
        OFFICIAL | {"annotations": [*OFFICIAL["annotations"], {"image_id": 999999, "caption": "of a larger set"}]},
        official("annotations", image_id=str),
        official("annotations", image_id=float),
        official("images", id=str),
        official("images", file_name=lambda name: f"D:\\coco\\train2017\\{name}"),
        official("images", file_name=lambda name: f"train2017/{name}"),
    ],
)
def test_captions_are_read(content, tmp_path):
    captions, problems = index_with(content, tmp_path)
    assert captions == ALL and problems == []


@pytest.mark.parametrize("value", [{"caption": "a dog", "tags": "dog"}, {}, None, 3, 0.5, True, [None], [["a"]],
                                   [{"caption": "a"}], "\ud83d", ["a", "\udc00"]])  # fmt: skip
def test_caption_that_is_no_text_is_named_by_its_image(value, tmp_path):
    captions, problems = index_with(PLAIN | {"c": value}, tmp_path)
    assert captions == ALL | {"c": ()}
    assert len(problems) == 1 and problems[0].endswith("the caption of c; write text, or a list of texts.")
    assert index_with(official("annotations", 2, caption=value), tmp_path)[1]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"[" * 100_000 + b"]" * 100_000, "nested"),
        (b'{"a":' * 100_000, "nested"),
        (b'{"c": "a"}\n{"d": "b"}', "Extra data"),  # JSON Lines
        (b'{"c": "a", "c": "b"}', "'c' has two values"),
        (json.dumps(PLAIN, ensure_ascii=False).encode("latin-1"), "not UTF-8"),
        (b"\x1f\x8b\x08\x00", "not UTF-8"),
        (b"image,caption\nc,a dog", "Expecting value"),
        (b'{"c": "a",}', "Expecting property name"),
        (b'{"c": ' + b"9" * 5000 + b"}", "digits"),
        ([{"file_name": "c.jpg", "text": "a dog"}], "{stem: caption}"),
        ("a dog", "{stem: caption}"),
        (None, "{stem: caption}"),
        ({}, "is empty and has no caption for any of the 3 images"),
        ({f"train2017/{stem}": "a dog" for stem in STEMS}, "such as 'train2017/000000000009'"),
        ({"dataset": "coco", "images": [{"filename": "c.jpg", "sentences": []}]}, "such as 'dataset'"),
        (OFFICIAL | {"annotations": {"a": 1}}, "such as 'images'"),
        ({"annotations": OFFICIAL["annotations"]}, "image_id and caption"),
        (OFFICIAL | {"annotations": [{"image_id": 0, "bbox": [0, 0, 1, 1]}]}, "image_id and caption"),
        (OFFICIAL | {"annotations": ["a dog"]}, "image_id and caption"),
        (OFFICIAL | {"images": {"a": 1}}, "image_id and caption"),
        (official("images", 0, file_name=3), "image_id and caption"),
        (official("images", 0, id=[1]), "image_id and caption"),
        (official("images", 0, id=1), "both 000000000009 and häuser.2 have the id 1"),
    ],
)  # fmt: skip
def test_captions_file_of_another_form_is_one_sentence(content, reason, tmp_path):
    _, problems = index_with(content, tmp_path)
    assert len(problems) == 1 and reason in problems[0] and str(tmp_path / "mine.json") in problems[0]
    assert problems[0].endswith(".") and "\n" not in problems[0] and ";" in problems[0]
