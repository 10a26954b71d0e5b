"""What a run takes from the cache instead of running frozen networks anew: chosen, forecast, made where missing."""

import shutil
import time
from collections.abc import Callable
from contextlib import nullcontext
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningDataModule, Trainer
from torch import Tensor

from lumen.config.schema import Config
from lumen.core.errors import BadConfig, Mistake, RunBusy
from lumen.core.hashing import hash_json as digest
from lumen.core.interfaces import Batch
from lumen.core.locks import claim
from lumen.data.cache import Rows, Shelf, amount, groups, size
from lumen.diffusion.activation_reuse import encoded
from lumen.training.fit_conditioning import fit
from lumen.training.tasks.layout_to_image import LayoutModule

TOGETHER = 16  # images that a network looks at at once, where bits do not matter
WORDS = {"moments": "latents", "layout": "layouts"}  # by the field of a batch
Place = tuple[int, int]  # of a shard: which look, which group of images


class Keeping(Callback):
    """Before training: fits the layout, and fills the cache with what will be looked at more than once."""

    def __init__(self, config: Config):
        self.config = config

    def on_fit_start(self, trainer: Trainer, module: LayoutModule) -> None:
        config, data = self.config, trainer.datamodule
        if config.cache == "never":
            return
        fit(module.conditioning, data, config.seed, Gathered(config, data, module, trainer))
        looked = config.steps * config.accumulate * config.batch * trainer.world_size
        keeper = Keeper(config, data, module, trainer.precision)
        kinds = keeper.chosen(looked) if trainer.is_global_zero else []
        kinds, keeper.keys = trainer.strategy.broadcast((kinds, keeper.keys))
        if kinds:
            keeper.fill(kinds, trainer.global_rank / trainer.world_size)
            data.kept = data.from_cache({kind: Rows(keeper.shelves[kind], keeper.keys) for kind in kinds})
            if trainer.is_global_zero:
                say(keeper.saved(kinds, looked))


class Gathered:
    """What a conditioning gathers of training images, kept for every run that would gather the same, whatever its N.

    How many processes gathered it is not asked: sums in float64 give one and eight of them the same axes.

    Args:
        trainer: of a run of several processes, which take what the first one finds.
    """

    def __init__(self, config: Config, data: LightningDataModule, module: LayoutModule, trainer: Trainer | None = None):
        self.config, self.data, self.trainer = config, data, trainer
        gathering = {"conditioning": module.conditioning.statistics_key, "seed": config.seed, "together": config.batch}
        self.root = Path(config.runs) / "cache"
        recipe = _circumstances(data, module) | gathering | {"dtype": str(torch.float64)}
        self.shelf = Shelf(self.root, "features", recipe)

    def __call__(self, images: int, gather: Callable[[], Tensor]) -> Tensor:
        some = self.data.sample(images)
        key = digest([[record.id for record in some], self.data.contents(some, self.root / "contents.json")])
        there = self.shelf.has(key)
        if self.trainer.strategy.broadcast(there) if self.trainer else there:
            self.shelf.touch()
            return torch.from_numpy(self.shelf.read(key)[0].copy())
        start, found = time.perf_counter(), gather()
        first = self.trainer is None or self.trainer.is_global_zero
        if first and found.nbytes < _room(self.config):
            self.shelf.write(key, found.cpu().numpy()[None], {"seconds": time.perf_counter() - start})
        return found


class Keeper:
    """The shelves of one run: latents, which every run on a data set shares, and layouts, which all of one basis do."""

    def __init__(self, config: Config, data: LightningDataModule, module: LayoutModule, precision: str):
        self.config, self.data, self.module = config, data, module
        self.root = Path(config.runs) / "cache"
        self.dtype = torch.float32 if precision == "32-true" else torch.float16
        common = _circumstances(data, module) | {"dtype": str(self.dtype)}
        # The last bits of a convolution depend on how many images it is of, though not on which: in float32 always as
        # many as in training, so that a cached run is bit by bit the one that computes all anew.
        self.together = config.batch if self.dtype == torch.float32 else TOGETHER
        common |= {"together": self.together}
        vae, layout = module.diffusion.identity["vae"], module.conditioning.cache_key(config.conditioning)
        self.shelves = {
            "moments": Shelf(self.root, WORDS["moments"], common | {"vae": vae}),
            "layout": Shelf(self.root, WORDS["layout"], common | {"conditioning": layout}),
        }
        self.looks, self.groups = data.looks(), groups(len(data.records("train")))
        self.keys: list[list[str]] = []  # of the shards, for each look one per group of images
        self.took, self.worked = 0.0, 0.0  # seconds on rows that were missing, and those of networks alone

    def chosen(self, looked: int | None) -> list[str]:
        """The kinds of rows that are worth keeping and have room; says why others are not.

        Args:
            looked: how many images the run will look at; None where others will look.

        Raises:
            BadConfig: cache=always, and it cannot be.
        """
        images = self.groups[-1].stop
        if self.looks is None:
            return self._refuse(
                [], "every epoch looks through windows of its own; views=4 draws four per image to keep"
            )
        if self.config.cache == "auto" and looked is not None and looked < 2 * images * self.looks:
            times = looked / images / self.looks
            return self._refuse(
                [], f"this run looks at an image {times:.2g} times; cache=always keeps it for other runs"
            )
        content = self.data.contents(self.data.records("train"), self.root / "contents.json")
        self.keys = [[digest([look, [content[i] for i in some]]) for some in self.groups] for look in range(self.looks)]
        row = self._row() if any(self.missing(kind) for kind in WORDS) else {}
        kinds, wait, room = [], 0.0, _room(self.config)
        for kind, (each, seconds) in row.items():
            count = sum(len(self.groups[group]) for _, group in self.missing(kind))
            if count and count * each > room:
                what = f"{WORDS[kind]} of {count} images take {amount(count * each)}, there is room for {amount(room)}"
                return self._refuse(kinds, f"{what}; raise cache_gb, make room, or run `lumen cache prune`")
            room, wait, kinds = room - count * each, wait + count * seconds, [*kinds, kind]
        if row:
            need = sum(len(self.groups[g]) * row[kind][0] for kind in kinds for _, g in self.missing(kind))
            say(f"{amount(need)} are made in about {_duration(wait)}; stopped, it goes on.")
        return kinds or list(WORDS)

    def missing(self, kind: str) -> list[Place]:
        return [
            (look, group)
            for look, keys in enumerate(self.keys)
            for group, key in enumerate(keys)
            if not self.shelves[kind].has(key)
        ]

    def fill(self, kinds: list[str], begin: float = 0.0) -> None:
        """Makes all rows that are missing; with several processes at it, each makes some and waits for the others'.

        Args:
            begin: at which part of the data set, from 0 to 1.
        """
        left = sorted({place for kind in kinds for place in self.missing(kind)})
        start, said = int(begin * len(left)), time.perf_counter()
        left, count = left[start:] + left[:start], len(left)
        while left:
            busy = []
            for place in left:
                try:
                    with claim(self.root / "locks", self._key(place)):
                        self._make(kinds, place)
                except RunBusy:
                    busy.append(place)
                if start == 0 and time.perf_counter() - said > 60:
                    said = time.perf_counter()
                    say(f"{1 - len({p for kind in kinds for p in self.missing(kind)}) / count:.0%} of it is there.")
            if len(busy) == len(left):
                time.sleep(1)
            left = busy

    def saved(self, kinds: list[str], looked: int) -> str:
        """What the run need not compute, by how long the rows took that it looks at."""
        images, made = self.groups[-1].stop * self.looks, {}
        for kind in kinds:
            facts = [self.shelves[kind].facts(key) for keys in self.keys for key in keys]
            made[kind] = sum(each["seconds"] for each in facts) / images
        seconds = looked * sum(made.values()) - self.worked
        networks = " and ".join(WORDS[kind] for kind in kinds)
        took = f"made in {_duration(self.took)}" if self.took else "there already"
        return f"{networks} of {images} images {took}; {looked} are looked at, which saves about {_duration(seconds)}."

    def _make(self, kinds: list[str], place: Place) -> None:
        """The rows of one group that are not there; a backbone that looks at latents is given those that are kept."""
        look, group = place
        kinds = [kind for kind in kinds if not self.shelves[kind].has(self._key(place))]
        rows: dict[str, list[np.ndarray]] = {kind: [] for kind in kinds}
        seconds, captions = dict.fromkeys(kinds, 0.0), []
        began = time.perf_counter()
        images = [*self.groups[group]]
        full = [i % len(images) for i in range(-(-len(images) // self.together) * self.together)]
        shelf, key = self.shelves["moments"], self._key(place)
        known = shelf.read(key) if shelf.has(key) else None
        for batch in self.data.looked([(images[i], look) for i in full], self.together) if kinds else ():
            batch, these, full = batch.to(self.module.device), full[: self.together], full[self.together :]
            captions += batch.extra["captions"]
            batch.moments = None if known is None else torch.from_numpy(known[these]).to(self.module.device)
            for kind in kinds:
                start = time.perf_counter()
                rows[kind].append(self._rows(kind, batch))
                seconds[kind] += time.perf_counter() - start
        for kind in kinds:
            facts = {"seconds": seconds[kind], "captions": captions[: len(images)]}
            self.shelves[kind].write(self._key(place), np.concatenate(rows[kind])[: len(images)], facts)
        self.took, self.worked = self.took + time.perf_counter() - began, self.worked + sum(seconds.values())

    @torch.no_grad()
    def _rows(self, kind: str, batch: Batch) -> np.ndarray:
        """Of a batch; latents' are remembered with it."""
        module = self.module
        if kind == "moments":
            rows = batch.moments = module.diffusion.moments(batch.image).to(self.dtype)
        else:
            latents = batch.moments
            with nullcontext() if latents is None else encoded(module.diffusion.pipeline.vae, latents.float()):
                rows = module.conditioning.encode(batch).to(self.dtype)
        if not bool(rows.isfinite().all()):
            raise Mistake(
                f"{WORDS[kind]} of {batch.id[0]} and its like are no finite numbers in {self.dtype}; cache=never."
            )
        return rows.cpu().numpy()

    def _row(self) -> dict[str, tuple[int, float]]:
        """Of one image, by kind, the bytes of its row and the seconds that it takes."""
        found = {}
        some = [(image, 0) for image in self.groups[0][: self.together]]
        batch = next(iter(self.data.looked(some, self.together)))
        batch = batch.to(self.module.device)
        for kind in WORDS:
            start = time.perf_counter()
            rows = self._rows(kind, batch)
            found[kind] = rows[0].nbytes, (time.perf_counter() - start) / len(rows)
        return found

    def _key(self, place: Place) -> str:
        return self.keys[place[0]][place[1]]

    def _refuse(self, kinds: list[str], reason: str) -> list[str]:
        if self.config.cache == "always":
            raise BadConfig(f"cache=always is not possible: {reason}.")
        say(f"{' and '.join(WORDS[kind] for kind in kinds) or 'nothing'} kept: {reason}.")
        return kinds


def _circumstances(data: LightningDataModule, module: LayoutModule) -> dict[str, Any]:
    """What everything that is kept depends on."""
    return {"look": data.recipe(), "device": module.device.type, "lumen": version("lumen")}


def _room(config: Config) -> float:
    """Bytes that the cache may still take."""
    root = Path(config.runs) / "cache"
    root.mkdir(parents=True, exist_ok=True)
    return min(config.cache_gb * 1e9 - size(root), 0.95 * shutil.disk_usage(root).free)


def say(words: str) -> None:
    print(f"cache: {words}", flush=True)


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if abs(seconds) < 100 else f"{seconds / 60:.0f} minutes"
