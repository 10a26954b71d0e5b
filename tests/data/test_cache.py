"""Cache stores: rows by image and view, hashes of files, pruning and verification."""

import json
import os
import re
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest

from lumen.__main__ import main
from lumen.core.errors import BadFile, Mistake
from lumen.data import cache, inventory

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
    assert [*array.captions] == [f"image {image}" for image in range(5)]


def test_cache_prune_removes_the_least_recently_used_store(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for number, kind in enumerate(("old", "new")):
        store = cache.CacheStore(tmp_path / "runs/cache", kind, KEY)
        store.write("a", np.zeros((5, 100), np.float32), {})
        os.utime(store.directory, (number, number))
    del store  # no longer in use
    assert main(["cache", "prune", "gb=3e-6"]) == 0
    assert re.match(r"removed: old-\S+  5 rows .*\n1 removed\n$", capsys.readouterr().out)
    assert [path.parent.name.partition("-")[0] for path in (tmp_path / "runs/cache").glob("*/recipe.json")] == ["new"]
    assert main(["cache", "prune", "gb=much"]) == 2
    assert "gb" in (message := capsys.readouterr().err) and "'much'" in message


def test_cache_removes_corrupt_shards(tmp_path):
    store = cache.CacheStore(tmp_path, "latents", KEY)
    for shard in "ab":
        store.write(shard, np.zeros((5, 100), np.float32), {})
    path = store.directory / "a.npy"
    path.write_bytes(path.read_bytes()[:-1] + b"\1")
    assert list(inventory.remove_damaged_files(tmp_path)) == [path]
    assert not store.has("a") and store.has("b") and list(inventory.remove_damaged_files(tmp_path)) == []


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


def write_store(root: Path, kind: str) -> cache.CacheStore:
    store = cache.CacheStore(root, kind, KEY)
    store.write("a", np.zeros((5, 100), np.float32), {})
    return store


def read_store(root: Path, kind: str) -> cache.CacheStore:
    write_store(root, kind)
    store = cache.CacheStore(root, kind, KEY)
    assert store.has("a")
    return store


@pytest.mark.parametrize("use", [write_store, read_store])
def test_cache_prune_leaves_what_is_in_use(use, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    root = tmp_path / "runs/cache"
    store = use(root, "latents")
    write_store(root, "features")
    assert main(["cache", "prune"]) == 0
    output = capsys.readouterr().out
    assert re.search(r"^in use\S* .*: latents-", output, re.M) and re.search(r"^removed: features-", output, re.M)
    assert output.endswith("\n1 removed\n") and store.has("a") and store.read("a").shape == (5, 100)
    del store
    assert main(["cache", "prune"]) == 0
    assert set(os.listdir(root)) <= {"locks"}


def test_cache_store_that_does_not_exist_is_not_created_by_a_question(tmp_path):
    store = cache.CacheStore(tmp_path / "cache", "latents", KEY)
    assert not store.has("a") and not (tmp_path / "cache").exists()
    write_store(tmp_path / "cache", "latents").write("b", np.zeros(1), {})
    assert store.has("a")
    assert [info.is_in_use for info in inventory.prune(tmp_path / "cache", 0)] == [True]


@pytest.mark.parametrize("number", range(4))
def test_cache_store_that_is_half_removed_is_still_listed(number, tmp_path, monkeypatch):
    """A process that prunes may be killed."""
    write_store(tmp_path, "latents").write("b", np.zeros(1), {})
    unlink, removed = Path.unlink, []

    def unlink_or_die(path: Path, **options: bool) -> None:
        if path.suffix in (".npy", ".json"):
            if len(removed) == number:
                raise KeyboardInterrupt
            removed.append(path)
        unlink(path, **options)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "unlink", unlink_or_die)
        list(inventory.prune(tmp_path, 0))
    assert len(list(inventory.prune(tmp_path, -1))) == 1 and set(os.listdir(tmp_path)) <= {"locks"}


def test_cache_that_cannot_be_locked_is_read(tmp_path, monkeypatch):
    write_store(tmp_path, "latents")

    def refuse(*_, **__):
        raise Mistake("read-only")

    monkeypatch.setattr(cache, "lock_directory", refuse)
    store = cache.CacheStore(tmp_path, "latents", KEY)
    assert store.has("a") and store.read("a").shape == (5, 100)
    with pytest.raises(Mistake):
        store.write("b", np.zeros(1), {})


def test_cache_drafts_of_killed_processes_are_removed_by_the_next_one_alone(tmp_path):
    store = write_store(tmp_path, "latents")
    draft = store.directory / f".lumen-host-{'0' * 16}.part"
    draft.touch()
    assert cache.CacheStore(tmp_path, "latents", KEY).has("a") and draft.exists()  # it may be that of the first
    del store
    assert cache.CacheStore(tmp_path, "latents", KEY).has("a") and not draft.exists()


def test_cache_is_filled_and_pruned_at_once(tmp_path):
    """Two processes prune while one fills; none fails, and no rows remain without their recipe."""
    root, stop = tmp_path / "cache", tmp_path / "stop"

    def prune_until_stopped() -> None:
        while not stop.exists():
            list(inventory.prune(root, 0))
            cache.directory_bytes(root)

    pruners = [get_context("fork").Process(target=prune_until_stopped) for _ in range(2)]
    for pruner in pruners:
        pruner.start()
    try:
        for number in range(60):
            store = cache.CacheStore(root, "latents", KEY | {"number": number % 3})
            store.write("a", np.zeros((200, 20), np.float32), {})
            assert store.has("a") and (store.directory / "recipe.json").exists() and store.metadata("a")["rows"] == 200
    finally:
        stop.touch()
        for pruner in pruners:
            pruner.join(60)
    assert [pruner.exitcode for pruner in pruners] == [0, 0]


def cut(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def change_byte(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1] + b"\1")


def overwrite(path: Path) -> None:
    path.write_bytes(b"[" * 100_000)


NAMES = ("a.npy", "a.json", "recipe.json")
DAMAGES = [(name, damage) for name in NAMES for damage in (cut, empty, change_byte, overwrite)]
DAMAGES += [("a.json", Path.unlink), ("a.json", lambda path: path.write_text("null"))]
DAMAGES += [("a.json", lambda path: path.write_text('{"rows": 5}'))]
DAMAGES += [("recipe.json", lambda path: path.write_text("{}"))]


@pytest.mark.parametrize(("name", "damage"), DAMAGES)
def test_cache_commands_survive_damage(name, damage, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    root = tmp_path / "runs/cache"
    store = write_store(root, "latents")
    store.write("b", np.zeros((5, 100), np.float32), {})
    directory = store.directory
    damage(directory / name)
    del store
    assert main(["cache", "ls"]) == 0 and directory.name in capsys.readouterr().out
    assert main(["cache", "verify"]) == 1
    removed = "recipe.json" if name == "recipe.json" else "a.npy"
    assert capsys.readouterr().out == f"removed: {Path('runs/cache') / directory.name / removed}\n1 damaged\n"
    assert not (directory / removed).exists() and (directory / "b.npy").exists()
    assert main(["cache", "verify"]) == 0 and capsys.readouterr().out == "0 damaged\n"
    read_store(root, "latents").touch() if removed == "recipe.json" else write_store(root, "latents")
    assert {path.name for path in directory.iterdir()} >= {"a.npy", "a.json", "b.npy", "b.json", "recipe.json"}
    damage(directory / name)
    assert main(["cache", "prune"]) == 0 and not directory.exists()


@pytest.mark.parametrize(("name", "damage"), [case for case in DAMAGES if case[0] != "recipe.json"])
def test_cache_shard_is_compared_with_its_hash_when_a_process_first_asks_for_it(name, damage, tmp_path, capsys):
    write_store(tmp_path, "latents")
    store = cache.CacheStore(tmp_path, "latents", KEY)
    assert store.has("a")
    damage(store.directory / name)
    assert store.has("a")  # this process has compared it before
    assert capsys.readouterr().out == ""
    assert not cache.CacheStore(tmp_path, "latents", KEY).has("a")
    assert str(store.directory / "a.npy") in capsys.readouterr().out
    assert not (store.directory / "a.npy").exists() and not (store.directory / "a.json").exists()


def test_cache_shard_that_is_damaged_and_cannot_be_removed_is_named(tmp_path, monkeypatch):
    path = write_store(tmp_path, "latents").directory / "a.npy"
    empty(path)

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(Mistake, match="a.npy is damaged and cannot be removed"):
        cache.CacheStore(tmp_path, "latents", KEY).has("a")


def test_cache_shard_is_not_removed_when_files_run_out(tmp_path, monkeypatch):
    path = write_store(tmp_path, "latents").directory / "a.npy"

    def refuse(_):
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(cache, "hash_file", refuse)
    with pytest.raises(Mistake, match="a.npy cannot be read: Too many open files"):
        cache.CacheStore(tmp_path, "latents", KEY).has("a")
    assert path.exists() and path.with_suffix(".json").exists()


@pytest.mark.parametrize("name", ["a.npy", "a.json"])
def test_cache_file_that_cannot_be_read_is_named(name, tmp_path):
    store = write_store(tmp_path, "latents")
    overwrite(store.directory / name)
    with pytest.raises(BadFile, match=name):
        cache.CachedArray(store, [["a"]])


@pytest.mark.parametrize("content", ["", "[]", "null", "{", "[" * 100_000, '{"a": 3}', "wrong"])
def test_cache_hashes_a_file_again_if_the_memo_is_damaged(content, tmp_path):
    file, memo = tmp_path / "a", tmp_path / "memo.json"
    file.write_text("a")
    first = cache.hash_files([[file]], memo)
    memo.write_text(content if content != "wrong" else json.dumps({str(file): [1, 2], "b": {}}))
    assert cache.hash_files([[file]], memo) == first and json.loads(memo.read_text())[str(file)][2]
