"""Stable Diffusion 1.5 at 512 px on one GPU, in images per second, beside peers: python -m benchmarks.gpu [small].

Weights are untrained, which does not change their speed, and inputs are not zero, which would be faster. Ours and the
peer take turns; a result is the median. Utilisation is the share of the data sheet's FLOP/s, by counted operations.
`small` runs tiny networks at 64 px on any device, to check that everything runs. --peer PATH also times a user's own
copy of diffusers' train_controlnet.py.
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
from typing import Any

import torch
from diffusers import DPMSolverMultistepScheduler, StableDiffusionControlNetPipeline
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from backbones.sd import SD
from benchmarks._script import seconds_per_step
from benchmarks.train_step_layout import extract_layout
from lumen.core.files import write_json
from lumen.diffusion.loading import load
from lumen.features.joint_moments import joint_moments
from lumen.features.pca import project
from lumen.generators.controlnet import ControlNet
from lumen.runs.cost.hardware import GPUS, detect_gpu

Work = Callable[[], object]
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
CAPTIONS = ["a red house under trees", "a road in snow", "a boat", "two dogs on the grass"]
ROUNDS = 5


class Bench:
    """Networks and inputs of all rows."""

    def __init__(self, small: bool):
        torch.manual_seed(0)
        self.pixels, self.batches, self.steps = (64, (2,), 4) if small else (512, (4, 32), 20)
        base = load("none", "tiny" if small else "v1")
        with torch.no_grad():  # weights that start at zero would have no gradients
            self.plain = ControlNet(base=base, channels=20, hint="latent", cache_text=True).to(DEVICE)
            for weight in self.plain.parameters():
                weight.add_(torch.randn_like(weight) * 0.01)
        # Ours has the memory format of `lumen train`, the peers' networks that of their files.
        self.generator = copy.deepcopy(self.plain).to(memory_format=torch.channels_last)
        bases = (generator.base for generator in (self.generator, self.plain))
        self.backbone, self.hooked = (SD(b, [2, 5, 8], "entering", 100, "", 42, False).to(DEVICE) for b in bases)
        self.axes = torch.linalg.qr(torch.randn(self.backbone.channels, 20, device=DEVICE))[0]
        self.mean = torch.zeros(self.backbone.channels, device=DEVICE)

    def rows(self) -> Iterator[tuple[str, int, dict[str, Work]]]:
        """Yield name, images per call, and the sides to time: ours and perhaps a peer."""
        for b in self.batches:
            sides = {"ours": self.train_step(b, cached=True), "peer": self.train_step(b, cached=False)}
            yield f"training, batch {b}, all cached", b, sides
        b = self.batches[-1]
        image = torch.rand(b, 3, self.pixels, self.pixels, device=DEVICE) * 2 - 1
        sides = {"ours": lambda: self.generator.encode(image), "peer": lambda: self.plain.encode(image)}
        yield f"moments of latents, batch {b}", b, sides
        peer = lambda: extract_layout(self.hooked, image, self.mean, self.axes)  # noqa: E731
        yield f"layouts of layers 2, 5, 8, batch {b}", b, {"ours": lambda: self.layout(image), "peer": peer}
        maps = self.backbone.feature_maps(image)
        sides = {"ours": lambda: joint_moments(maps), "peer": lambda: scatter_matrix(maps)}
        yield f"moments of features, batch {b}", b, sides
        n = min(b, 16)
        layout = self.layout(image[:n])
        sides = {"ours": self.sample(layout), "peer": self.sample_by_diffusers(layout)}
        yield f"samples, {self.steps} steps, batch {n}", n, sides

    def train_step(self, b: int, cached: bool) -> Work:
        """Return a step of AdamW on b images, from cached latents and captions or encoding them."""
        generator, captions = self.generator if cached else self.plain, (CAPTIONS * b)[:b]
        image = torch.rand(b, 3, self.pixels, self.pixels, device=DEVICE) * 2 - 1
        moments, layout = generator.encode(image), self.layout(image)
        optimizer = torch.optim.AdamW(generator.parameters(), lr=1e-6, fused=cached and DEVICE.type == "cuda")
        keys = [(0, i, 0) for i in range(b)]

        def step() -> None:
            with autocast():
                if cached:
                    loss = generator.loss(moments, captions, layout, keys).mean()
                else:
                    generator.prompt_cache.clear()
                    loss = generator.loss(generator.encode(image), captions, layout, keys).mean()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(generator.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

        return step

    @torch.no_grad()
    def layout(self, image: Tensor) -> Tensor:
        """Return the layout of images."""
        return project(self.backbone.feature_maps(image), self.mean, self.axes, torch.ones(20, device=DEVICE))

    def sample(self, layout: Tensor) -> Work:
        """Return the generation of images by our sampler."""
        captions, size = (CAPTIONS * len(layout))[: len(layout)], (self.pixels, self.pixels)
        seeds = list(range(len(layout)))

        def generate() -> None:
            with torch.no_grad(), autocast():
                self.generator.sample(captions, layout, seeds, size, "dpm", self.steps, 7.5)

        return generate

    def sample_by_diffusers(self, layout: Tensor) -> Work:
        """Return the generation by diffusers' pipeline, which takes 20 channels at the latents' size as an image."""
        base = self.plain.base
        parts = {name: getattr(base, name) for name in ("vae", "text_encoder", "tokenizer", "unet")}
        pipeline = StableDiffusionControlNetPipeline(
            **parts,
            controlnet=self.plain.controlnet,
            scheduler=DPMSolverMultistepScheduler.from_config(base.scheduler.config),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
        pipeline.set_progress_bar_config(disable=True)
        captions, cells = (CAPTIONS * len(layout))[: len(layout)], self.pixels // base.downscale
        hint = torch.nn.functional.interpolate(layout, (cells, cells), mode="bilinear")
        noise = torch.randn(len(layout), 4, cells, cells, device=DEVICE)

        def generate() -> None:
            with torch.no_grad(), autocast():
                pipeline(captions, hint, latents=noise, num_inference_steps=self.steps, output_type="pt")

        return generate


def autocast() -> torch.autocast | nullcontext:
    """Return bf16 on a GPU, and fp32 elsewhere."""
    return torch.autocast("cuda", torch.bfloat16) if DEVICE.type == "cuda" else nullcontext()


def scatter_matrix(maps: list[Tensor]) -> Tensor:
    """Return the matrix of `joint_moments` from resized and concatenated maps."""
    size = maps[-1].shape[-2:]
    resized = [torch.nn.functional.interpolate(m, size, mode="bilinear") for m in maps]
    vectors = torch.cat(resized, dim=1).movedim(1, -1).flatten(0, 2)
    vectors = vectors - vectors.mean(0)
    return vectors.T @ vectors


def time_call(work: Work) -> float:
    """Return the wall-clock seconds of a call, with the GPU's work."""
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def measure_sides(images: int, sides: dict[str, Work]) -> dict[str, Any]:
    """Return images per second of each side, our FLOPs per image, and our share of the GPU's peak."""
    with FlopCounterMode(display=False) as counter:
        sides["ours"]()
    for work in sides.values():
        work()  # warms up
    times = {side: [] for side in sides}
    for _ in range(ROUNDS):
        for side, work in sides.items():
            times[side].append(time_call(work))
    rates = {side: images / median(values) for side, values in times.items()}
    flops = counter.get_total_flops() / images
    utilisation = flops * rates["ours"] / GPUS[detect_gpu()].half if detect_gpu() else None
    return {"images_per_s": rates, "flops_per_image": flops, "of_the_peak": utilisation}


def measure_script(bench: Bench, script: Path, b: int) -> float:
    """Return the images per second of diffusers' own script at this batch size, with an image instead of a layout."""
    if DEVICE.type == "cuda":
        torch.cuda.empty_cache()
    generator = ControlNet(base=bench.plain.base, channels=3, hint="image")
    return b / seconds_per_step(script, generator, bench.pixels, b, DEVICE.type == "cuda")


def main(arguments: list[str]) -> None:
    """Measure all rows, print them, and store those of a GPU at full size."""
    parser = argparse.ArgumentParser("python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("size", nargs="?", choices=["small"])
    parser.add_argument("--peer", type=Path)
    options = parser.parse_args(arguments)
    bench, results = Bench(options.size == "small"), {}
    for row, images, sides in bench.rows():
        results[row] = measure_sides(images, sides)
        print(f"{row:45s} {json.dumps(results[row])}", flush=True)
    for b in bench.batches if options.peer else ():
        row = f"training, batch {b}, {options.peer.name}"
        results[row] = {"images_per_s": {"peer": measure_script(bench, options.peer, b)}}
        print(f"{row:45s} {json.dumps(results[row])}", flush=True)
    if DEVICE.type == "cuda" and not options.size:
        name = torch.cuda.get_device_name(0)
        file = re.sub(r"[^A-Za-z0-9.]+", "-", name)
        peak = torch.cuda.max_memory_allocated() / 2**30
        content = {"device": name, "torch": torch.__version__, "peak_gib": peak, "rows": results}
        write_json(Path(__file__).parent / "results" / "gpu" / f"{file}.json", content)


if __name__ == "__main__":
    main(sys.argv[1:])
