"""Readers: whatever is wrong with a file, one sentence names it."""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from lumen.core.errors import BadFile, Mistake
from lumen.core.files import find_damaged_lines, read_jsonl
from lumen.core.readers import explain_damage, parse_line, read_array, read_json, read_tensors, read_text, read_yaml
from lumen.core.visualize import load_grid
from lumen.evaluation.scores import PerImageScores, load_scores, save_scores

KEYS = zip("abcdefgh", "bcdefghi", strict=True)
NINES = [f"{key}: &{key} [{','.join(['*' + before] * 9)}]\n" for before, key in KEYS]
BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(NINES)
DAMAGES = {
    "empty": b"",
    "zeros": bytes(64),
    "not utf-8": b"\xff\xfe{}",
    "utf-16": '{"a": {"b": 1}}'.encode("utf-16"),
    "cut": b'{"a": {"b": ',
    "list": b"[1]",
    "null": b"null",
    "number": b"3",
    "text": b'"a"',
    "deep list": b"[" * 600,
    "deep dict": b'{"a":' * 20_000,
    "without key": b'{"b": 1}',
    "wrong type": b'{"a": 1}',
    "wrong inner type": b'{"a": {"b": "1"}}',
    "escape": b"\x1b[31m",
    "two": b'{"a": {"b": 1}} {"a": {"b": 1}}',
    "bomb": BOMB.encode(),
    "cycle": b"a: &a {b: *a}",
    "date": b"a: 2001-99-99",
    "keys of two types": b"a: {b: 1}\n1: 2",
    "code": b"a: !!python/object/apply:os.getcwd []",
}
SHAPE = {"a": {"b": int}}


def read_grid(path: Path, remedy: str) -> object:
    return load_grid(path, 3)


def read_scores(path: Path, remedy: str) -> object:
    return load_scores(path)


def sentence(read: Callable, path: Path, *shape: dict) -> str:
    with pytest.raises(BadFile) as caught:
        read(path, "remove it", *shape)
    text = str(caught.value)
    assert text.startswith(f"{path} ") and text.endswith(".") and "\n" not in text and len(text) < 400 + len(str(path))
    return text


@pytest.mark.parametrize("read", [read_json, read_yaml])
@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_text_file_is_named(read, damage, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(DAMAGES[damage])
    assert "; remove it." in sentence(read, path, SHAPE)


@pytest.mark.parametrize("read", [read_json, read_yaml])
def test_intact_text_file_is_read(read, tmp_path):
    (tmp_path / "file").write_text('{"a": {"b": 1}, "c": "häßlich"}', encoding="utf-8")
    assert read(tmp_path / "file", "remove it", SHAPE) == {"a": {"b": 1}, "c": "häßlich"}


@pytest.mark.parametrize("read", [read_array, read_tensors, read_grid, read_scores])
@pytest.mark.parametrize("damage", ["empty", "zeros", "cut", "deep list", "text"])
def test_binary_file_of_another_kind_is_named(read, damage, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(DAMAGES[damage])
    sentence(read, path)


def write_array(path: Path) -> None:
    np.save(path.open("wb"), np.zeros((40, 20)))


def write_tensors(path: Path) -> None:
    save_file({"a": torch.zeros(200, 20)}, path)


def write_grid(path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (400, 300, 3), np.uint8)
    Image.fromarray(noise).save(path, format="PNG")


def write_scores(path: Path) -> None:
    scores = {"miou": torch.rand(50, 3, 4), "lpips": torch.rand(50)}
    save_scores(path, {"test": PerImageScores([str(n) for n in range(50)], [""] * 50, scores)})


@pytest.mark.parametrize("part", [0.02, 0.3, 0.9, 0.99])
@pytest.mark.parametrize(
    ("write", "read"),
    [(write_array, read_array), (write_tensors, read_tensors), (write_grid, read_grid), (write_scores, read_scores)],
    ids=["npy", "safetensors", "png", "parquet"],
)
def test_binary_file_that_is_cut_is_named(write, read, part, tmp_path):
    path = tmp_path / "file"
    write(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(part * len(content))])
    sentence(read, path)


@pytest.mark.parametrize(
    ("write", "read"), [(write_array, read_array), (write_scores, read_scores)], ids=["npy", "parquet"]
)
def test_binary_file_with_any_changed_byte_is_read_or_named(write, read, tmp_path):
    path = tmp_path / "file"
    write(path)
    content = path.read_bytes()
    for position in [*range(0, 100, 7), *range(max(0, len(content) - 500), len(content), 23)]:
        path.write_bytes(content[:position] + bytes([content[position] ^ 0x55]) + content[position + 1 :])
        try:
            read(path, "remove it")
        except BadFile as error:
            assert str(path) in str(error)


def test_scores_of_other_columns_are_named(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = [{"a": [1]}, {"kind": ["test"]}, {"kind": ["real"], "id": ["a"], "caption": [""], "miou": [1.0]}]
    columns += [
        {"kind": ["test"] * 2, "id": ["a", "b"], "caption": ["", ""], "miou": miou}
        for miou in ([[1.0], []], ["x", "y"])
    ]
    for content in columns:
        pq.write_table(pa.table(content), tmp_path / "file")
        sentence(read_scores, tmp_path / "file")


def test_file_that_the_system_does_not_give_is_no_damage(tmp_path):
    for path in (tmp_path, tmp_path / "missing"):
        for read in (read_text, read_json, read_yaml, read_array):
            with pytest.raises(Mistake, match="remove it") as caught:
                read(path, "remove it")
            assert not isinstance(caught.value, BadFile)


@pytest.mark.parametrize("error", [MemoryError(), OSError(12, "Cannot allocate memory"), RuntimeError("out of memory")])
def test_lack_of_memory_is_no_damage(error, tmp_path):
    expected = pytest.raises(Mistake, match="file cannot be read: memory ran short")
    with expected as caught, explain_damage(tmp_path / "file", "remove it"):
        raise error
    assert not isinstance(caught.value, BadFile) and "remove it" not in str(caught.value)


def test_deeply_nested_text_leaves_the_recursion_limit(tmp_path):
    limit = sys.getrecursionlimit()
    (tmp_path / "file").write_bytes(DAMAGES["deep dict"])
    sentence(read_json, tmp_path / "file")
    assert sys.getrecursionlimit() == limit


@pytest.mark.parametrize("line", [b"", b"\0\0{}", b"\xff", b"3", b"[]", b'{"a"', b"[" * 100_000])
def test_damaged_line_is_no_record(line, tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_bytes(b'{"step": 0}\n' + line + b'\n{"step": 1}\n{"st')
    assert parse_line(line) is None and read_jsonl(path) == [{"step": 0}, {"step": 1}]
    assert find_damaged_lines(path) == [2] and find_damaged_lines(tmp_path / "none") == []
