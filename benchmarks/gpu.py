"""Stable Diffusion 1.5 at 512 px on one GPU, in images per second, beside plain peers: python -m benchmarks.gpu [small]

Untrained weights, which are as fast as trained ones, and inputs that are no zeros, which would be faster. Ours and the
peer take turns; a figure is the median. The utilisation is of what the data sheet says, by counted operations. `small`
takes tiny networks at 64 px on whatever device there is: to see that all of it runs. --peer PATH times a user's own
train_controlnet.py of diffusers as well.
"""

import argparse
import copy
import json
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from statistics import median

import torch
from diffusers import DPMSolverMultistepScheduler, StableDiffusionControlNetPipeline
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from backbones.sd import SD
from benchmarks._script import seconds_per_step
from benchmarks.train_step_layout import extracted
from lumen.core.files import write_json
from lumen.diffusion.stable_diffusion import load
from lumen.features.joint_moments import joint
from lumen.features.pca import project
from lumen.generators.controlnet import ControlledDiffusion
from lumen.runs.cost.hardware import GPUS, present

Work = Callable[[], object]
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
CAPTIONS = ["a red house under trees", "a road in snow", "a boat", "two dogs on the grass"]
ROUNDS = 5


class Bench:
    """The networks and inputs of all rows."""

    def __init__(self, small: bool):
        torch.manual_seed(0)
        self.pixels, self.batches, self.steps = (64, (2,), 4) if small else (512, (4, 32), 20)
        pipeline = load("none", "tiny" if small else "v1")
        with torch.no_grad():  # what begins at zero would send no gradients
            self.plain = ControlledDiffusion(pipeline, 20, "latent", keep_text=True).to(DEVICE)
            for weight in self.plain.parameters():
                weight.add_(torch.randn_like(weight) * 0.01)
        # ours as `lumen train` has it, the peers' networks as they are loaded
        self.diffusion = copy.deepcopy(self.plain).to(memory_format=torch.channels_last)
        both = (each.pipeline for each in (self.diffusion, self.plain))
        self.backbone, self.hooked = (SD(p, [2, 5, 8], "entering", 100, "", 42, False).to(DEVICE) for p in both)
        self.axes = torch.linalg.qr(torch.randn(self.backbone.channels, 20, device=DEVICE))[0]
        self.mean = torch.zeros(self.backbone.channels, device=DEVICE)

    def rows(self) -> Iterator[tuple[str, int, dict[str, Work]]]:
        """Name, images of one call, and what is timed: ours and perhaps a peer."""
        for b in self.batches:
            yield f"training, batch {b}, all cached", b, {"ours": self.train(b, True), "peer": self.train(b, False)}
        b = self.batches[-1]
        image = torch.rand(b, 3, self.pixels, self.pixels, device=DEVICE) * 2 - 1
        sides = {"ours": lambda: self.diffusion.moments(image), "peer": lambda: self.plain.moments(image)}
        yield f"moments of latents, batch {b}", b, sides
        peer = lambda: extracted(self.hooked, image, self.mean, self.axes)  # noqa: E731
        yield f"layouts of layers 2, 5, 8, batch {b}", b, {"ours": lambda: self.layout(image), "peer": peer}
        maps = self.backbone.feature_maps(image)
        yield f"moments of features, batch {b}", b, {"ours": lambda: joint(maps), "peer": lambda: joined(maps)}
        layout, n = self.layout(image[: min(b, 16)]), min(b, 16)
        yield f"samples, {self.steps} steps, batch {n}", n, {"ours": self.sample(layout), "peer": self.painted(layout)}

    def train(self, b: int, cached: bool) -> Work:
        """A step of AdamW on b images: from what the cache keeps, or encoding them anew as train_controlnet.py."""
        diffusion, captions = self.diffusion if cached else self.plain, (CAPTIONS * b)[:b]
        image = torch.rand(b, 3, self.pixels, self.pixels, device=DEVICE) * 2 - 1
        moments, layout = diffusion.moments(image), self.layout(image)
        optimizer = torch.optim.AdamW(diffusion.parameters(), lr=1e-6, fused=cached and DEVICE.type == "cuda")
        keys = [(0, i, 0) for i in range(b)]

        def step() -> None:
            with half():
                if cached:
                    loss = diffusion.loss(moments, captions, layout, keys).mean()
                else:
                    diffusion.texts.clear()
                    loss = diffusion.loss(diffusion.moments(image), captions, layout, keys).mean()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(diffusion.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

        return step

    @torch.no_grad()
    def layout(self, image: Tensor) -> Tensor:
        return project(self.backbone.feature_maps(image), self.mean, self.axes, torch.ones(20, device=DEVICE))

    def sample(self, layout: Tensor) -> Work:
        captions, size = (CAPTIONS * len(layout))[: len(layout)], (self.pixels, self.pixels)
        seeds = list(range(len(layout)))

        def paint() -> None:
            with torch.no_grad(), half():
                self.diffusion.sample(captions, layout, seeds, size, "dpm", self.steps, 7.5)

        return paint

    def painted(self, layout: Tensor) -> Work:
        """The same by diffusers' pipeline, to which 20 channels at the latents' size are an image of that size."""
        names = ("vae", "text_encoder", "tokenizer", "unet")
        pipeline = self.plain.pipeline
        parts = {name: getattr(pipeline, name) for name in names}
        painter = StableDiffusionControlNetPipeline(
            **parts,
            controlnet=self.plain.controlnet,
            scheduler=DPMSolverMultistepScheduler.from_config(pipeline.scheduler.config),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
        painter.set_progress_bar_config(disable=True)
        captions, cells = (CAPTIONS * len(layout))[: len(layout)], self.pixels // pipeline.downscale
        hint = torch.nn.functional.interpolate(layout, (cells, cells), mode="bilinear")
        noise = torch.randn(len(layout), 4, cells, cells, device=DEVICE)

        def paint() -> None:
            with torch.no_grad(), half():
                painter(captions, hint, latents=noise, num_inference_steps=self.steps, output_type="pt")

        return paint


def half() -> torch.autocast | nullcontext:
    return torch.autocast("cuda", torch.bfloat16) if DEVICE.type == "cuda" else nullcontext()


def joined(maps: list[Tensor]) -> Tensor:
    """What `joint` gives, of maps resized and put together first."""
    size = maps[-1].shape[-2:]
    whole = [torch.nn.functional.interpolate(each, size, mode="bilinear") for each in maps]
    vectors = torch.cat(whole, dim=1).movedim(1, -1).flatten(0, 2)
    vectors = vectors - vectors.mean(0)
    return vectors.T @ vectors


def seconds(work: Work) -> float:
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def scripted(bench: Bench, script: Path, b: int) -> float:
    """Images per second of diffusers' own script at this batch; no layout, but an image steers it."""
    if DEVICE.type == "cuda":
        torch.cuda.empty_cache()
    networks = ControlledDiffusion(bench.plain.pipeline, 3, "image")
    return b / seconds_per_step(script, networks, bench.pixels, b, DEVICE.type == "cuda")


def main(words: list[str]) -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("size", nargs="?", choices=["small"])
    parser.add_argument("--peer", type=Path)
    asked = parser.parse_args(words)
    bench, found = Bench(asked.size == "small"), {}
    name = torch.cuda.get_device_name(0) if DEVICE.type == "cuda" else "CPU"
    for row, images, sides in bench.rows():
        with FlopCounterMode(display=False) as counter:
            sides["ours"]()
        for work in sides.values():
            work()  # warm
        spent = {who: [] for who in sides}
        for _ in range(ROUNDS):
            for who, work in sides.items():
                spent[who].append(seconds(work))
        rates = {who: images / median(times) for who, times in spent.items()}
        flops = counter.get_total_flops() / images
        used = flops * rates["ours"] / GPUS[present()].half if present() else None
        found[row] = {"images_per_s": rates, "flops_per_image": flops, "of_the_peak": used}
        print(f"{row:45s} {json.dumps(found[row])}", flush=True)
    for b in bench.batches if asked.peer else ():
        row = f"training, batch {b}, {asked.peer.name}"
        found[row] = {"images_per_s": {"peer": scripted(bench, asked.peer, b)}}
        print(f"{row:45s} {json.dumps(found[row])}", flush=True)
    if DEVICE.type == "cuda" and not asked.size:
        file = re.sub(r"[^A-Za-z0-9.]+", "-", name)
        peak = torch.cuda.max_memory_allocated() / 2**30
        figures = {"device": name, "torch": torch.__version__, "peak_gib": peak, "rows": found}
        write_json(Path(__file__).parent / "results" / "gpu" / f"{file}.json", figures)


if __name__ == "__main__":
    main(sys.argv[1:])
