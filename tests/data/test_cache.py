"""Cache stores: rows by image and view, hashes of files, pruning and verification."""

import os
import re

import numpy as np
import pytest

from lumen.__main__ import main
from lumen.data import cache

KEY = {"look": {"data": "x", "size": 1}, "dtype": "float32"}


def test_cache_gathers_rows_by_image_and_view(tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "SHARD_SIZE", 2)
    store = cache.CacheStore(tmp_path, "latents", KEY)
    ranges = cache.shard_ranges(5)
    for view in range(2):
        for part, images in enumerate(ranges):
            rows = np.array([[10 * view + image] for image in images], np.float32)
            store.write(f"{view}-{part}", rows, {"captions": [f"image {image}" for image in images]})
    array = cache.CachedArray(store, [[f"{view}-{part}" for part in range(len(ranges))] for view in range(2)])
    assert array.take([(4, 1), (0, 0), (3, 0), (2, 1)]).tolist() == [[14.0], [0.0], [3.0], [12.0]]
    captions = [caption for metadata in array.metadata for caption in metadata["captions"]]
    assert captions == [f"image {image}" for image in range(5)]


def test_cache_prune_removes_the_least_recently_used_store(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for number, kind in enumerate(("old", "new")):
        store = cache.CacheStore(tmp_path / "runs/cache", kind, KEY)
        store.write("a", np.zeros((5, 100), np.float32), {})
        os.utime(store.directory, (number, number))
    assert main(["cache", "prune", "gb=3e-6"]) == 0
    assert re.match(r"removed: old-\S+  5 rows .*\n1 removed\n$", capsys.readouterr().out)
    assert [path.name.partition("-")[0] for path in (tmp_path / "runs/cache").iterdir()] == ["new"]
    assert main(["cache", "prune", "gb=much"]) == 2
    assert "gb" in (message := capsys.readouterr().err) and "'much'" in message


def test_cache_removes_corrupt_shards(tmp_path):
    store = cache.CacheStore(tmp_path, "latents", KEY)
    for shard in "ab":
        store.write(shard, np.zeros((5, 100), np.float32), {})
    path = store.directory / "a.npy"
    path.write_bytes(path.read_bytes()[:-1] + b"\1")
    assert list(cache.remove_corrupt_shards(tmp_path)) == [path]
    assert not store.has("a") and store.has("b") and list(cache.remove_corrupt_shards(tmp_path)) == []


def test_cache_hashes_a_file_again_only_if_it_changed(tmp_path, monkeypatch):
    files, memo = [tmp_path / name for name in "ab"], tmp_path / "memo.json"
    for file in files:
        file.write_text(file.name)
    first = cache.hash_files([[file] for file in files], memo)
    with monkeypatch.context() as patch:
        patch.setattr(cache, "hash_file", lambda path: pytest.fail(f"{path} was read again"))
        assert cache.hash_files([[file] for file in files], memo) == first
    files[1].write_text("another")
    second = cache.hash_files([[file] for file in files], memo)
    assert second[0] == first[0] and second[1] != first[1]
    files[1].write_text("a")
    assert cache.hash_files([[files[1]]], memo) == first[:1]  # a hash depends on the content alone
