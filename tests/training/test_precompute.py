"""Cache of precomputed features: the same bits with and without it, shared by runs, resumed, verified, bounded."""

import json
import os
import signal
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.autoencoders.vae import Encoder

from lumen.__main__ import main
from lumen.conditionings.neural_layout import NeuralLayout
from lumen.core.registry import datamodules
from lumen.core.tensor_hashing import hash_tree
from lumen.data import cache
from lumen.training import checkpoint_io
from lumen.training.feature_precomputer import FeaturePrecomputer

# A Stable Diffusion of two blocks, which takes a third of the time that four blocks take.
PIPELINE = next(Path(__file__).parents[1].glob("runs/fixtures/*/pipeline"))
TINY = ["size=32", "backbone=dino", "backbone.size=tiny", "backbone.patch=8", "backbone.weights=none", "data.images=10"]
TINY += [f"diffusion.weights={PIPELINE}", "conditioning.vectors=60", "validation=2", "warmup=1"]
TINY += ["lr=1e-3", "accelerator=cpu", "prompt_dropout=0.5", "batch=4", "steps=6", "metrics=[]", "wandb=disabled"]
TINY += ["sampling.steps=1", "sampling.images=1"]
UNTRAINED = ["diffusion.weights=none", "diffusion.size=tiny"]
SD = ["backbone=sd", "backbone.size=tiny", "backbone.weights=none", *UNTRAINED]  # four blocks, whose maps it reads
BOTH = ["latents", "layouts"]


def tiny_without(*keys: str) -> list[str]:
    return [flag for flag in TINY if not flag.startswith(keys)]


def only_run(runs: Path) -> Path:
    """Return the directory of the one run in a directory of runs."""
    (config,) = runs.glob("*/*/seed0/config.yaml")
    return config.parent


def hash_weights(run: Path) -> str:
    return hash_tree(checkpoint_io.read(checkpoint_io.list_checkpoints(run / "checkpoints")[0])["state_dict"])


def read_savings(run: Path) -> dict[str, Any]:
    """Return what the cache saved a run, as it wrote it."""
    return json.loads((run / "cache.json").read_text())


def has_cached(savings: dict[str, Any], names: list[str], images: int, computed: bool) -> bool:
    """Return whether these outputs of so many images and views were cached, and whether this run computed them."""
    return (savings["cached"], savings["images"], savings["seconds"] > 0) == (names, images, computed)


@pytest.mark.parametrize("flags", [[], ["conditioning.components=2", "conditioning.scale=component"], SD,
                                   ["conditioning=canny"], ["conditioning=segmap"]])  # fmt: skip
def test_cache_leaves_the_bits_of_a_run(workdir, flags, monkeypatch, capsys):
    """One shard has six images and one the last four; the batch size divides neither."""
    monkeypatch.setattr(cache, "SHARD_SIZE", 6)
    has_conditioning = "conditioning=" in "".join(flags)
    replaced = ("backbone", "conditioning") if has_conditioning else ("backbone", "diffusion") if flags is SD else ()
    flags = [*tiny_without("steps", *replaced), "steps=3", *flags]
    for mode in ("never", "always"):
        command = ["train", "scenes", *flags, f"cache={mode}", f"runs={mode}"]
        assert main(command) == 0
    assert "latents and layouts of 10 images" in capsys.readouterr().out
    uncached, cached = (only_run(workdir / mode) for mode in ("never", "always"))
    assert has_cached(read_savings(cached), BOTH, 10, computed=True)
    assert hash_weights(uncached) == hash_weights(cached)
    assert (uncached / "metrics.json").read_text() == (cached / "metrics.json").read_text()
    assert not (workdir / "never/cache").exists() and not (uncached / "cache.json").exists()


@pytest.mark.long
def test_cache_holds_flips_as_views_and_shares_them_between_components(workdir, monkeypatch, capsys):
    assert main(["data", "render", "scenes", "world", "format=coco_stuff", "size=32", "train=6", "val=2"]) == 0
    flags = [*tiny_without("data.images"), "data.root=world"]
    for mode in ("never", "auto"):  # the runs read 24 times one of 6 images in 2 views: each twice
        assert main(["train", "coco_stuff", *flags, f"cache={mode}", f"runs={mode}"]) == 0
    uncached, cached = (only_run(workdir / mode) for mode in ("never", "auto"))
    savings = read_savings(cached)
    assert has_cached(savings, BOTH, 12, computed=True) and savings["images_read"] == 24 and savings["views"] == 2
    assert hash_weights(uncached) == hash_weights(cached)

    def savings_with(components: int) -> dict[str, Any]:
        name = f"conditioning.components={components}"
        short = [*tiny_without("data.images", "steps"), "data.root=world", "steps=1", "cache=always"]
        assert main(["train", "coco_stuff", *short, "runs=auto", name]) == 0
        (path,) = (path for path in workdir.glob("auto/coco_stuff/*/seed0") if _has_flag(path, name))
        return read_savings(path)

    monkeypatch.setattr(NeuralLayout, "compute_statistics", lambda *_: pytest.fail("the statistics are cached"))
    assert has_cached(savings_with(7), BOTH, 12, computed=False)
    assert has_cached(savings_with(21), BOTH, 12, computed=True)
    capsys.readouterr()
    assert main(["cache", "ls", "runs=auto"]) == 0
    stores = capsys.readouterr().out
    assert stores.count("12 rows") == 3 and stores.count("1 rows") == 1  # latents, two layouts; feature moments


def _has_flag(run: Path, flag: str) -> bool:
    return flag in json.loads((run / "provenance.json").read_text())["command"]


def test_cache_encodes_an_image_once_for_all_backbones(workdir, monkeypatch):
    """A backbone that reads latents gets those that the cache has."""
    assert main(["cache", "build", "scenes", *tiny_without("diffusion"), *UNTRAINED]) == 0
    encoded, forward = [], Encoder.forward
    monkeypatch.setattr(Encoder, "forward", lambda self, image: encoded.append(len(image)) or forward(self, image))
    flags = [*tiny_without("backbone", "diffusion"), *SD]
    assert main(["cache", "build", "scenes", *flags]) == 0
    assert sum(encoded) == 2 + 4  # to fit the axes, on images that are not augmented, and to measure the time
    encoded.clear()
    assert main(["cache", "build", "scenes", *flags, "runs=other"]) == 0
    assert sum(encoded) == 2 + 4 + 12  # those, and 10 images in whole batches of 4


def test_cache_refuses_random_crops(workdir, capsys):
    datamodules.factory("cityscapes").fake(workdir / "world")
    flags = [*tiny_without("data.images"), "data.root=world", "validation=1"]
    assert main(["train", "cityscapes", *flags, "runs=crops"]) == 0
    assert "views=4" in capsys.readouterr().out
    savings = read_savings(only_run(workdir / "crops"))
    assert savings["cached"] == [] and "views=4" in savings["reason"]
    assert main(["train", "cityscapes", *flags, "views=1"]) == 0
    assert has_cached(read_savings(only_run(workdir / "runs")), BOTH, 6, computed=True)


def test_cache_is_not_filled_for_a_run_that_reads_each_image_once(workdir, capsys):
    assert main(["train", "scenes", *tiny_without("steps"), "steps=2"]) == 0
    message = capsys.readouterr().out
    assert "0.8 times" in message and "cache=always" in message
    savings = read_savings(only_run(workdir / "runs"))
    assert savings["cached"] == [] and "cache=always" in savings["reason"]


def test_cache_respects_its_limit(workdir, capsys):
    assert main(["train", "scenes", *TINY, "cache_gb=1e-6"]) == 0
    message = capsys.readouterr().out
    assert "latents of 10 images" in message and "cache_gb" in message
    assert main(["train", "scenes", *TINY, "cache_gb=1e-6", "cache=always", "runs=other"]) == 2
    message = capsys.readouterr().err
    assert "cache=always" in message and "latents of 10 images" in message
    row = 8 * 8 * 8 * 4  # eight numbers of 4 bytes for each of 8 x 8 latents
    limit = 12 * row + 1e4  # room for the latents, and 10 kB for feature moments
    assert main(["train", "scenes", *TINY, f"cache_gb={limit / 1e9}", "runs=half"]) == 0
    savings = read_savings(only_run(workdir / "half"))
    assert savings["cached"] == ["latents"] and "layouts of 10 images" in savings["reason"]
    kinds = [path.name.partition("-")[0] for path in sorted((workdir / "half/cache").glob("*-*"))]
    assert kinds == ["features", "latents"]


def test_cache_is_filled_by_several_processes_with_each_shard_once(workdir, monkeypatch, capfd):
    monkeypatch.setattr(cache, "SHARD_SIZE", 2)
    log = workdir / "computed.txt"
    monkeypatch.setattr(FeaturePrecomputer, "_compute", _logged(FeaturePrecomputer._compute, log))
    fork = get_context("fork")
    processes = [fork.Process(target=main, args=(["cache", "build", "scenes", *TINY],)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    assert sorted(log.read_text().split()) == ["0,0", "0,1", "0,2", "0,3", "0,4"]
    assert capfd.readouterr().out.count("10 images x 1 views are in runs/cache") == 2


def _logged(compute: Callable, log: Path) -> Callable:
    """Return `FeaturePrecomputer._compute`, which also logs the shards that were missing."""

    def logged(self, names, shard, phase):
        if any(not self.stores[name].has(self._key(shard)) for name in names):
            with open(log, "a") as file:
                file.write(f"{shard[0]},{shard[1]}\n")
        compute(self, names, shard, phase)

    return logged


def test_cache_build_resumes_after_a_kill(workdir, monkeypatch):
    monkeypatch.setattr(cache, "SHARD_SIZE", 2)

    def build_until_killed() -> None:
        write = cache.CacheStore.write

        def write_three(self, shard, rows, metadata):
            if len(list(self.directory.glob("*.npy"))) == 3:
                os.kill(os.getpid(), signal.SIGKILL)
            write(self, shard, rows, metadata)

        cache.CacheStore.write = write_three
        main(["cache", "build", "scenes", *TINY])

    process = get_context("fork").Process(target=build_until_killed)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL and len(list(workdir.glob("runs/cache/latents-*/*.npy"))) == 3
    assert main(["cache", "build", "scenes", *TINY]) == 0
    assert len(list(workdir.glob("runs/cache/latents-*/*.npy"))) == 5
    assert main(["train", "scenes", *TINY]) == 0
    assert has_cached(read_savings(only_run(workdir / "runs")), BOTH, 10, computed=False)


def test_cache_verify_removes_a_damaged_shard_that_build_computes_again(workdir, capsys):
    assert main(["cache", "build", "scenes", *TINY]) == 0
    (shard,) = workdir.glob("runs/cache/latents-*/*.npy")
    content = shard.read_bytes()
    shard.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    capsys.readouterr()
    assert main(["cache", "verify"]) == 1
    assert capsys.readouterr().out == f"removed: {shard.relative_to(workdir)}\n1 damaged\n"
    assert main(["cache", "build", "scenes", *TINY]) == 0 and shard.read_bytes() == content
    assert main(["cache", "verify"]) == 0


def test_cache_refuses_rows_that_overflow_half_precision(workdir, monkeypatch, capsys):
    def init_in_half_precision(self, *arguments):
        init(self, *arguments)
        self.dtype = torch.float16

    init = FeaturePrecomputer.__init__
    monkeypatch.setattr(FeaturePrecomputer, "__init__", init_in_half_precision)
    monkeypatch.setattr("lumen.generators.controlnet.ControlNet.encode", lambda self, image: image * 1e6)
    assert main(["cache", "build", "scenes", *TINY]) == 2
    message = capsys.readouterr().err
    assert "latents" in message and "torch.float16" in message and "cache=never" in message
    assert not list(workdir.glob("runs/cache/la*/*.npy"))


@pytest.mark.long
def test_cache_shard_that_is_damaged_is_computed_again_with_the_same_bits(workdir, capsys):
    command = ["train", "scenes", *TINY, "cache=always"]
    assert main(command) == 0
    whole = only_run(workdir / "runs")
    weights = hash_weights(whole)
    shard = max((workdir / "runs/cache").glob("layouts-*/*.npy"))
    content = shard.read_bytes()
    shard.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    whole.rename(workdir / "whole")
    capsys.readouterr()
    assert main(command) == 0
    assert str(shard.name) in capsys.readouterr().out and shard.read_bytes() == content
    assert hash_weights(only_run(workdir / "runs")) == weights
