"""Forecasts: FLOPs as counted for the published architectures, memory as real tensors take it."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.mem_tracker import MemTracker

from lumen.__main__ import main
from lumen.config.experiment import load
from lumen.core.errors import BadConfig
from lumen.core.registry import conditionings
from lumen.diffusion import stable_diffusion as pipeline
from lumen.generators.controlnet import ControlledDiffusion
from lumen.runs.build import build_data, build_module
from lumen.runs.cost.estimate import cost, flops, outline
from lumen.runs.cost.hardware import GPUS
from lumen.runs.cost.memory import Live, backward, followed, place

SMALL = ["diffusion.weights=none", "backbone.weights=none", "backbone.size=tiny", "size=32"]


@pytest.fixture(scope="module")
def published() -> dict[str, float]:
    """GFLOP of one image of SD 1.5 at 512 px, under a picture as a layout."""
    config = load("coco_stuff", ["conditioning=segmap", "conditioning.form=colours"], complete=False)
    return {part: n / 1e9 for part, n in flops(outline(config)[0], config.size)[0].items()}


@pytest.mark.parametrize(
    ("part", "gflop"),
    [("autoencoder", 1116.7), ("text encoder", 13.3), ("unet", 803.3), ("controlnet", 283.3)]
    + [("unet, backward", 613.7), ("controlnet, backward", 564.9), ("layout", 0)],
)
def test_sd_1_5_takes_what_was_counted_by_hand(published, part, gflop):
    assert published[part] == pytest.approx(gflop, abs=0.06)


def test_a_training_step_of_sd_1_5_is_the_sum_of_its_parts(published):
    step = sum(n for part, n in published.items() if part.startswith(("unet", "controlnet")))
    assert step == pytest.approx(2265.2, abs=0.1)


def test_a_backbone_that_looks_at_latents_is_given_them():
    flags = ["backbone=sd", "diffusion.size=tiny", *SMALL]
    found = flops(outline(load("coco_stuff", flags, complete=False))[0], 32)[0]
    assert 0 < found["layout"] < found["unet"]  # a part of the U-Net, and no autoencoder


def _step(diffusion: ControlledDiffusion, live: Live) -> list[int]:
    """Bytes after the forward pass, at the peak, and after the backward pass."""
    z, text = torch.zeros(2, 4, 16, 16), torch.zeros(2, 77, 32)
    predicted = diffusion.denoise(z, torch.zeros(2, dtype=torch.long), text, torch.zeros(2, 3, 16, 16))
    loss = F.mse_loss(predicted, z)
    forward = live.now
    backward(loss)
    return [forward, live.peak, live.now]


@pytest.mark.parametrize("checkpointing", [False, True])
def test_memory_is_forecast_as_real_tensors_take_it(checkpointing):
    def built() -> ControlledDiffusion:
        # a copy, as the networks are shared and those that are followed lose their weights
        return ControlledDiffusion(copy.deepcopy(pipeline.load("none", "tiny")), 3, checkpointing=checkpointing)

    try:
        real = built()
        with Live() as live:
            for network in (*real.networks.values(), real):
                place(network, set())
            taken = _step(real, live)
        with torch.device("meta"):
            outlined = built()
        with followed() as (live, _):
            for network in (*outlined.networks.values(), outlined):
                place(network, set())
            assert _step(outlined, live) == pytest.approx(taken, rel=1e-3)  # but for a few constants of 512 bytes
    finally:
        pipeline._load.cache_clear()  # these have been changed


def test_halves_are_kept_as_autocast_keeps_them_on_a_gpu():
    """Against PyTorch's own casts on CUDA, which it makes of tensors without values, too, where there is no GPU."""

    class Block(nn.Module):
        def __init__(self, device: str | None = None):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(8, 8, 3, padding=1, device=device), nn.GroupNorm(2, 8, device=device)
            self.scale, self.linear = nn.LayerNorm(8, device=device), nn.Linear(8, 16, device=device)

        def forward(self, x):
            x = F.silu(self.norm(self.conv(x))).flatten(2).mT
            return F.gelu(self.linear(self.scale(x))).softmax(-1).sum()

    with FakeTensorMode(), Live() as live:
        block, x = Block("cuda"), torch.empty(4, 8, 32, 32, device="cuda")
        torch.set_autocast_enabled("cuda", True)
        torch.set_autocast_dtype("cuda", torch.bfloat16)
        try:
            out = block(x)
        finally:
            torch.set_autocast_enabled("cuda", False)
        theirs = live.now, live.peak
        torch.clear_autocast_cache()
        assert out.requires_grad
    with followed(torch.bfloat16) as (live, _):
        block, x = Block(), torch.empty(4, 8, 32, 32)
        with torch.autocast("cpu", torch.bfloat16):
            out = block(x)
        assert (live.now, live.peak) == theirs
        assert out.requires_grad


def test_what_lives_is_what_the_memory_tracker_of_pytorch_finds():
    def work(network: nn.Module, x: torch.Tensor) -> None:
        network(x).square().mean().backward()

    network, x = nn.Sequential(nn.Linear(128, 256), nn.GELU(), nn.Linear(256, 128)), torch.zeros(64, 128)
    tracker = MemTracker()
    tracker.track_external(network, x)
    with tracker:
        work(network, x)
    theirs = tracker.get_tracker_snapshot("peak")[torch.device("cpu")]["Total"]
    network.zero_grad(set_to_none=True)
    with Live() as live:
        network.apply(lambda module: place(module, set()))
        work(network, x.clone())
    assert live.peak == pytest.approx(theirs, rel=0.01)


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=() if n in ("neural_layout", "hed") else pytest.mark.long) for n in conditionings.names()],
)
def test_every_conditioning_is_forecast(name):
    found = cost(load("scenes", [f"conditioning={name}", *SMALL]))
    assert found.cached < found.image and found.kept > 0 and found.images == 1024
    assert max(found.peaks.values()) >= sum(found.held.values())
    assert (found.uncounted == name) == (name in ("hed", "midas"))
    built = build_module(config := load("scenes", [f"conditioning={name}", *SMALL]), build_data(config))
    assert found.parameters["controlnet"] == sum(p.numel() for p in built.parameters())


def test_what_is_recomputed_costs_work_and_spares_memory():
    plain, again = (cost(load("scenes", [*SMALL, "batch=8", f"diffusion.checkpointing={on}"])) for on in (False, True))
    assert again.image > plain.image and again.peaks["forward"] < plain.peaks["forward"]


def test_the_forecast_is_printed_and_nothing_is_fetched(place, capsys):
    flags = ["diffusion.size=tiny", "backbone=dino", "backbone.size=small", "size=64", "batch=2"]
    assert main(["show", "coco_stuff", *flags, "--cost"]) == 0
    told = capsys.readouterr().out
    assert all(words in told for words in ("parameters", "PFLOP", "computed", "the data set is not here", *GPUS))
    assert not list(place.iterdir())
    assert main(["train", "scenes", "--cost"]) == 2


@pytest.mark.parametrize("memory", [12, 24, 80])
@pytest.mark.parametrize("images", [1, 4, 6, 32, 256])
def test_a_gpus_memory_cuts_a_step_and_keeps_its_images(memory, images):
    config = load("scenes", [f"memory={memory}", f"batch={images}"])
    assert config.batch * config.accumulate == images
    assert config.batch == min(config.batch, images) and (
        images != 256 or config.batch == {12: 2, 24: 8, 80: 32}[memory]
    )
    assert config.diffusion.checkpointing == (memory == 12)
    assert not load("scenes", [f"memory={memory}", "diffusion.checkpointing=false"]).diffusion.checkpointing


def test_a_memory_without_a_preset_is_a_sentence():
    with pytest.raises(BadConfig, match="memory cannot be 13: there are 12, 24, 80 GB"):
        load("scenes", ["memory=13"])
