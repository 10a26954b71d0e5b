"""A cache changes nothing but time: the same bits with it and without, whole or not there, shared, and bounded."""

import os
import re
import signal
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers.models.autoencoders.vae import Encoder

from lumen.__main__ import main
from lumen.conditionings.neural_layout import NeuralLayout
from lumen.core.errors import Mistake
from lumen.core.hashing import hash_tree as digest
from lumen.core.registry import datamodules
from lumen.data import cache
from lumen.data.datamodule import Loading
from lumen.training import checkpoint_io as checkpoints
from lumen.training import precompute as keeping

TINY = ["size=32", "backbone=dino", "backbone.size=tiny", "backbone.patch=8", "backbone.weights=none", "data.images=10"]
TINY += ["diffusion.weights=none", "diffusion.size=tiny", "conditioning.vectors=60", "validation=2", "warmup=1"]
TINY += ["lr=1e-3", "accelerator=cpu", "prompt_dropout=0.5", "batch=4", "steps=6", "metrics=[]", "wandb=disabled"]
TINY += ["sampling.steps=1", "sampling.images=1"]
SD = ["backbone=sd", "backbone.size=tiny", "backbone.weights=none"]


def learnt(run: Path) -> str:
    return digest(checkpoints.read(checkpoints.found(run / "checkpoints")[0])["state_dict"])


@pytest.mark.parametrize("flags", [[], ["conditioning.components=2", "conditioning.scale=component"], SD,
                                   ["conditioning=canny"], ["conditioning=segmap"]])  # fmt: skip
def test_a_run_from_the_cache_has_the_same_bits(place, capsys, flags, monkeypatch):
    """One shard for six images and one for the last four, the batch no divisor of either."""
    monkeypatch.setattr(cache, "GROUP", 6)
    own = "backbone" if flags is SD else "conditioning.vectors" if any("conditioning=" in one for one in flags) else "-"
    made = [flag for flag in TINY if not flag.startswith(own)]
    for how in ("never", "always"):
        assert main(["train", "scenes", *made, *flags, f"cache={how}", f"runs={how}"]) == 0
    assert "latents and layouts of 10 images made in" in capsys.readouterr().out
    never, always = (next((place / how).glob("scenes/*/seed0")) for how in ("never", "always"))
    assert learnt(never) == learnt(always)
    assert (never / "metrics.json").read_text() == (always / "metrics.json").read_text()
    assert not (place / "never/cache").exists()


def test_flips_are_two_looks_and_another_n_shares_them(place, capsys, monkeypatch):
    assert main(["data", "render", "scenes", "world", "format=coco_stuff", "size=32", "train=6", "val=2"]) == 0
    flags = [flag for flag in TINY if not flag.startswith("data.images")] + ["data.root=world"]
    for how in ("never", "auto"):  # 24 looks at 6 images from 2 sides: twice each
        assert main(["train", "coco_stuff", *flags, f"cache={how}", f"runs={how}"]) == 0
    told = capsys.readouterr().out
    assert "latents and layouts of 12 images made in" in told and "24 are looked at" in told
    never, auto = (next((place / how).glob("coco_stuff/*/seed0")) for how in ("never", "auto"))
    assert learnt(never) == learnt(auto)
    monkeypatch.setattr(NeuralLayout, "gather", lambda *_: pytest.fail("the moments of features are there"))
    assert main(["train", "coco_stuff", *flags, "runs=auto", "conditioning.components=7"]) == 0
    assert "latents and layouts of 12 images there already" in capsys.readouterr().out
    assert main(["train", "coco_stuff", *flags, "runs=auto", "conditioning.components=21"]) == 0
    assert "latents and layouts of 12 images made in" in capsys.readouterr().out
    assert main(["cache", "ls", "runs=auto"]) == 0
    told = capsys.readouterr().out
    assert told.count("12 rows") == 3 and told.count("1 rows") == 1  # latents and two layouts, moments of features


@pytest.mark.parametrize("name", datamodules.names())
def test_a_look_is_what_an_epoch_shows(name, tmp_path):
    """Else a cache would teach other pictures than the files hold."""
    factory = datamodules.factory(name)
    factory.fake(tmp_path)
    where = {"root": str(tmp_path)} if name != "scenes" else {"images": 3}
    data = datamodules.build(name, **where, loading=Loading(size=32, seed=3, views=2))
    view, seen = data.dataset("train"), set()
    for index, epoch in [(i, e) for i in range(3) for e in range(4)]:
        sample = view[index, epoch]
        captions = data.load(view.records[index])["captions"]
        caption, look = view.drawn(index, epoch, captions)
        seen.add(look)
        assert torch.equal(sample["image"], view.at(index, look)["image"])
        assert torch.equal(sample["mask"], view.at(index, look)["mask"])
        assert sample["caption"] == caption
    assert seen == set(range(data.looks()))


def test_the_autoencoder_looks_at_an_image_once(place, monkeypatch):
    """What it has made of an image stays for a backbone that looks at latents."""
    assert main(["cache", "build", "scenes", *TINY]) == 0
    looked, forward = [], Encoder.forward
    monkeypatch.setattr(Encoder, "forward", lambda self, image: looked.append(len(image)) or forward(self, image))
    flags = [flag for flag in TINY if not flag.startswith("backbone")] + SD
    assert main(["cache", "build", "scenes", *flags]) == 0
    assert sum(looked) == 2 + 4  # to fit the axes, on images as they are, and to see how long it takes
    looked.clear()
    assert main(["cache", "build", "scenes", *flags, "runs=other"]) == 0
    assert sum(looked) == 2 + 4 + 12  # those, and 10 in whole batches of 4


def test_windows_that_are_drawn_anew_cannot_be_kept(place, capsys):
    datamodules.factory("cityscapes").fake(place / "world")
    flags = [flag for flag in TINY if not flag.startswith("data.images")] + ["data.root=world", "validation=1"]
    assert main(["train", "cityscapes", *flags]) == 0
    assert "nothing kept: every epoch looks through windows of its own; views=4" in capsys.readouterr().out
    assert main(["train", "cityscapes", *flags, "views=1"]) == 0
    assert "latents and layouts of 6 images made in" in capsys.readouterr().out


def test_a_window_belongs_to_the_name_of_its_image(tmp_path):
    recipes = []
    for names in (("aachen",), ("bremen",)):
        datamodules.factory("cityscapes").fake(tmp_path / names[0])
        for path in [*(tmp_path / names[0]).rglob("aachen_*")]:
            path.rename(path.with_name(path.name.replace("aachen", names[0])))
        said = tmp_path / names[0] / "captions.json"
        said.write_text(said.read_text().replace('"aachen', f'"{names[0]}'))
        loading = Loading(size=32, views=2)
        recipes.append(datamodules.build("cityscapes", root=str(tmp_path / names[0]), loading=loading).recipe())
    assert recipes[0] != recipes[1] and recipes[0]["ids"] != recipes[1]["ids"]


def test_it_says_where_it_does_not_pay_or_fit(place, capsys):
    few = [flag for flag in TINY if flag != "steps=6"] + ["steps=2"]
    assert main(["train", "scenes", *few]) == 0
    assert "nothing kept: this run looks at an image 0.8 times; cache=always" in capsys.readouterr().out
    assert main(["train", "scenes", *TINY, "cache_gb=1e-6"]) == 0
    told = capsys.readouterr().out
    assert "nothing kept: latents of 10 images take" in told and "raise cache_gb" in told
    assert main(["train", "scenes", *TINY, "cache_gb=1e-6", "cache=always", "runs=other"]) == 2
    assert "cache=always is not possible: latents of 10 images take" in capsys.readouterr().err
    row = 8 * 8 * 8 * 4  # eight numbers of 4 bytes for each of 8 x 8 latents: room for those, and 10 kB for features
    assert main(["train", "scenes", *TINY, f"cache_gb={(12 * row + 1e4) / 1e9}", "runs=half"]) == 0
    assert "latents kept: layouts of 10 images take" in capsys.readouterr().out
    assert [path.name.partition("-")[0] for path in sorted((place / "half/cache").glob("*-*"))] == [
        "features",
        "latents",
    ]


def test_several_at_once_make_each_shard_once(place, monkeypatch, capfd):
    monkeypatch.setattr(cache, "GROUP", 2)
    monkeypatch.setattr(keeping.Keeper, "_make", _counted(keeping.Keeper._make, place / "made"))
    fork = get_context("fork")
    both = [fork.Process(target=main, args=(["cache", "build", "scenes", *TINY],)) for _ in range(2)]
    [each.start() for each in both]
    [each.join() for each in both]
    assert [each.exitcode for each in both] == [0, 0]
    assert sorted((place / "made").read_text().split()) == ["0,0", "0,1", "0,2", "0,3", "0,4"]
    assert capfd.readouterr().out.count("10 images x 1 looks are in runs/cache") == 2


def _counted(make, file):
    def counted(self, kinds, where):
        if any(not self.shelves[kind].has(self.keys[where[0]][where[1]]) for kind in kinds):
            with open(file, "a") as log:
                log.write(f"{where[0]},{where[1]}\n")
        make(self, kinds, where)

    return counted


def test_a_killed_build_goes_on(place, monkeypatch, capsys):
    monkeypatch.setattr(cache, "GROUP", 2)

    def killed() -> None:
        write = cache.Shelf.write

        def once(self, key, rows, facts):
            if len(list(self.place.glob("*.npy"))) == 3:
                os.kill(os.getpid(), signal.SIGKILL)
            write(self, key, rows, facts)

        cache.Shelf.write = once
        main(["cache", "build", "scenes", *TINY])

    child = get_context("fork").Process(target=killed)
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL and len(list(place.glob("runs/cache/latents-*/*.npy"))) == 3
    assert main(["cache", "build", "scenes", *TINY]) == 0
    assert len(list(place.glob("runs/cache/latents-*/*.npy"))) == 5
    capsys.readouterr()
    assert main(["train", "scenes", *TINY]) == 0
    assert "there already" in capsys.readouterr().out


def test_what_is_damaged_is_found_and_made_anew(place, capsys):
    assert main(["cache", "build", "scenes", *TINY]) == 0
    (shard,) = place.glob("runs/cache/latents-*/*.npy")
    content = shard.read_bytes()
    shard.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    capsys.readouterr()
    assert main(["cache", "verify"]) == 1
    assert capsys.readouterr().out == f"removed: {shard.relative_to(place)}\n1 damaged\n"
    assert main(["cache", "build", "scenes", *TINY]) == 0 and shard.read_bytes() == content
    assert main(["cache", "verify"]) == 0


def test_the_oldest_goes_first(place, capsys):
    for number, kind in enumerate(("old", "new")):
        shelf = cache.Shelf(place / "runs/cache", kind, {"look": {"data": "x", "size": 1}, "dtype": "float32"})
        shelf.write("a", np.zeros((5, 100), np.float32), {})
        os.utime(shelf.place, (number, number))
    assert main(["cache", "prune", "gb=3e-6"]) == 0
    assert re.match(r"removed: old-\S+  5 rows .*\n1 removed\n$", capsys.readouterr().out)
    assert [path.name.partition("-")[0] for path in (place / "runs/cache").iterdir()] == ["new"]
    assert main(["cache", "prune", "gb=much"]) == 2
    assert "gb must be a number of gigabytes, not 'much'" in capsys.readouterr().err


def test_content_is_hashed_once_and_again_where_a_file_changes(tmp_path, monkeypatch):
    files = [tmp_path / name for name in "ab"]
    for file in files:
        file.write_text(file.name)
    first = cache.stamps([[file] for file in files], tmp_path / "memo.json")
    monkeypatch.setattr(cache, "_hash", lambda path: pytest.fail(f"{path} was read again"))
    assert cache.stamps([[file] for file in files], tmp_path / "memo.json") == first
    monkeypatch.undo()
    files[1].write_text("another")
    again = cache.stamps([[file] for file in files], tmp_path / "memo.json")
    assert again[0] == first[0] and again[1] != first[1]
    files[1].write_text("a")
    assert cache.stamps([[files[1]]], tmp_path / "memo.json") == first[:1]  # the content is the address


def test_rows_that_do_not_fit_their_type_are_refused(place, monkeypatch, capsys):
    monkeypatch.setattr(keeping.Keeper, "__init__", _half(keeping.Keeper.__init__))
    monkeypatch.setattr("lumen.generators.controlnet.ControlledDiffusion.moments", lambda self, image: image * 1e6)
    assert main(["cache", "build", "scenes", *TINY]) == 2
    assert "are no finite numbers in torch.float16; cache=never" in capsys.readouterr().err
    assert not list(place.glob("runs/cache/la*/*.npy")) and issubclass(Mistake, Exception)


def _half(init):
    def made(self, *arguments):
        init(self, *arguments)
        self.dtype = torch.float16

    return made
