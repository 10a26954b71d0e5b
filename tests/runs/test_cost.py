"""Cost estimate: FLOPs as counted by hand for the published architectures, memory as real tensors take it."""

import copy
import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.mem_tracker import MemTracker
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import alexnet, inception_v3

from lumen.__main__ import main
from lumen.config.experiment import load
from lumen.config.schema import DEFAULT_TASK
from lumen.core.errors import BadConfig
from lumen.core.registry import conditionings, datamodules, metrics, tasks
from lumen.diffusion import loading
from lumen.generators.controlnet import ControlNet
from lumen.runs.build import build_task
from lumen.runs.cost import evaluation
from lumen.runs.cost.estimate import build_on_meta, count_flops, count_sample_flops, estimate_cost
from lumen.runs.cost.evaluation import estimate_evaluation
from lumen.runs.cost.hardware import GPUS
from lumen.runs.cost.memory import MemoryTracker, allocate, backward, track_memory
from lumen.runs.data import build_data

# A Stable Diffusion of two blocks: fake tensors take time per operation, as real ones do.
PIPELINE = next(Path(__file__).parent.glob("fixtures/*/pipeline"))
SMALL = [f"diffusion.weights={PIPELINE}", "backbone.weights=none", "backbone.size=tiny", "size=32"]


# ---- FLOPs


@pytest.fixture(scope="module")
def published_gflop() -> dict[str, float]:
    """GFLOP of one image of SD 1.5 at 512 px by part, with a layout that needs no network."""
    config = load("coco_stuff", ["conditioning=segmap", "conditioning.form=colours"], complete=False)
    flops, _ = count_flops(build_on_meta(config)[0], config.size)
    return {part: n / 1e9 for part, n in flops.items()}


@pytest.mark.parametrize(
    ("part", "gflop"),
    [("autoencoder", 1116.7), ("text encoder", 13.3), ("unet", 803.3), ("controlnet", 283.3)]
    + [("unet, backward", 613.7), ("controlnet, backward", 564.9), ("layout", 0)],
)
def test_cost_in_flops_of_sd_1_5_equals_a_count_by_hand(published_gflop, part, gflop):
    assert published_gflop[part] == pytest.approx(gflop, abs=0.06)


def test_cost_in_flops_of_a_training_step_is_the_sum_of_its_parts(published_gflop):
    step = sum(n for part, n in published_gflop.items() if part.startswith(("unet", "controlnet")))
    assert step == pytest.approx(2265.2, abs=0.1)


@pytest.mark.long
def test_cost_in_flops_of_a_backbone_that_reads_latents_leaves_out_the_autoencoder():
    untrained = ["diffusion.weights=none", "diffusion.size=tiny"]
    config = load("coco_stuff", [*SMALL, "backbone=sd", *untrained], complete=False)
    flops, _ = count_flops(build_on_meta(config)[0], 32)
    assert 0 < flops["layout"] < flops["unet"]  # a part of the U-Net


def test_cost_in_flops_of_a_sample_is_that_of_its_steps_prompts_layout_and_decoder():
    flags = [*SMALL, "conditioning=segmap"]
    once, steps = (load("coco_stuff", [*flags, f"sampling.steps={n}"], complete=False) for n in (1, 4))
    first, all_steps = map(count_sample_flops, (once, steps))
    assert (all_steps - first) % 3 == 0 and 0 < (all_steps - first) // 3 < first
    assert 0 < count_sample_flops(once, "vae") < all_steps


def test_cost_of_an_evaluation_counts_all_rows_and_known_evaluators(monkeypatch):
    flags = ["conditioning=segmap", "measure.images=10", "metrics=[lpips,tifa]", "metrics.tifa.vqa=some/model"]
    monkeypatch.setattr(evaluation, "count_sample_flops", lambda _, row, task: {"test": 100, "vae": 10, "real": 0}[row])
    rows = estimate_evaluation(load("coco_stuff", [*SMALL, *flags], complete=False))
    assert [(row.images, row.generating) for row in rows] == [(20, 2000), (10, 0), (10, 100), (20, 2000), (20, 2000)]
    assert all(row.scoring == row.images * 7_300_000_000 for row in rows)  # of lpips alone
    assert [row.is_shared for row in rows] == [False, True, True, True, False]
    assert estimate_evaluation(load("coco_stuff", [*SMALL, "conditioning=segmap"], complete=False)) == []


@pytest.mark.parametrize(("metric", "build", "side"), [("fid", inception_v3, 299), ("lpips", alexnet, 512)])
def test_cost_of_an_evaluator_is_that_of_its_architecture(metric, build, side):
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        network = build(weights=None).eval()
        getattr(network, "features", network)(torch.empty(1, 3, side, side))
    (gflop,) = metrics.literal(metric, "evaluator_gflop").values()
    assert counter.get_total_flops() / 1e9 == pytest.approx(gflop, abs=0.05)


# ---- memory


def measure_step(generator: ControlNet, tracker: MemoryTracker) -> list[int]:
    """Return the bytes after the forward pass, at the peak, and after the backward pass."""
    z, text = torch.zeros(2, 4, 16, 16), torch.zeros(2, 77, 32)
    predicted = generator.denoise(z, torch.zeros(2, dtype=torch.long), text, torch.zeros(2, 3, 16, 16))
    loss = F.mse_loss(predicted, z)
    forward = tracker.current
    backward(loss)
    return [forward, tracker.peak, tracker.current]


def allocate_all(generator: ControlNet) -> None:
    for network in (*generator.networks.values(), generator):
        allocate(network, set())


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.long
def test_memory_estimate_equals_that_of_real_tensors(checkpointing):
    def build() -> ControlNet:
        # A copy, because the networks are shared and `allocate` replaces their weights.
        return ControlNet(base=copy.deepcopy(loading.load("none", "tiny")), channels=3, checkpointing=checkpointing)

    try:
        generator = build()
        with MemoryTracker() as tracker:
            allocate_all(generator)
            expected = measure_step(generator, tracker)
        with torch.device("meta"):
            generator = build()
        with track_memory() as (tracker, _):
            allocate_all(generator)
            # but for a few constants of 512 bytes
            assert measure_step(generator, tracker) == pytest.approx(expected, rel=1e-3)
    finally:
        loading._load.cache_clear()  # these have been changed


def test_memory_estimate_under_autocast_equals_that_of_pytorch_on_a_gpu():
    """PyTorch casts fake CUDA tensors as real ones, also without a GPU."""

    class Block(nn.Module):
        def __init__(self, device: str | None = None):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(8, 8, 3, padding=1, device=device), nn.GroupNorm(2, 8, device=device)
            self.scale, self.linear = nn.LayerNorm(8, device=device), nn.Linear(8, 16, device=device)

        def forward(self, x):
            x = F.silu(self.norm(self.conv(x))).flatten(2).mT
            return F.gelu(self.linear(self.scale(x))).softmax(-1).sum()

    with FakeTensorMode(), MemoryTracker() as tracker:
        block, x = Block("cuda"), torch.empty(4, 8, 32, 32, device="cuda")
        torch.set_autocast_enabled("cuda", True)
        torch.set_autocast_dtype("cuda", torch.bfloat16)
        try:
            out = block(x)
        finally:
            torch.set_autocast_enabled("cuda", False)
        expected = tracker.current, tracker.peak
        torch.clear_autocast_cache()
        assert out.requires_grad
    with track_memory(torch.bfloat16) as (tracker, _):
        block, x = Block(), torch.empty(4, 8, 32, 32)
        with torch.autocast("cpu", torch.bfloat16):
            out = block(x)
        assert (tracker.current, tracker.peak) == expected
        assert out.requires_grad


def test_memory_tracker_equals_that_of_pytorch():
    def run(network: nn.Module, x: torch.Tensor) -> None:
        network(x).square().mean().backward()

    network, x = nn.Sequential(nn.Linear(128, 256), nn.GELU(), nn.Linear(256, 128)), torch.zeros(64, 128)
    reference = MemTracker()
    reference.track_external(network, x)
    with reference:
        run(network, x)
    expected = reference.get_tracker_snapshot("peak")[torch.device("cpu")]["Total"]
    network.zero_grad(set_to_none=True)
    with MemoryTracker() as tracker:
        network.apply(lambda module: allocate(module, set()))
        run(network, x.clone())
    assert tracker.peak == pytest.approx(expected, rel=0.01)


# ---- whole runs


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=() if n in ("neural_layout", "hed") else pytest.mark.long) for n in conditionings.names()],
)
def test_cost_of_every_conditioning(name):
    config = load("scenes", [f"conditioning={name}", *SMALL])
    cost = estimate_cost(config)
    assert cost.cached < cost.image and cost.cache_bytes > 0 and cost.images == 1024
    assert max(cost.peaks.values()) >= sum(cost.held.values())
    assert (cost.uncounted == name) == (name in ("hed", "midas"))
    task = build_task(config, build_data(config))
    assert cost.parameters["controlnet"] == sum(p.numel() for p in task.parameters())


@pytest.mark.parametrize(
    "task", [pytest.param(n, marks=() if n == DEFAULT_TASK else pytest.mark.long) for n in tasks.names()]
)
def test_cost_of_every_task(task, tiny):
    config = load("scenes", [*tiny, "data.images=6"])
    cost, built = estimate_cost(config), build_task(config, build_data(config))
    *_, (trainable, parameters) = cost.parameters.items()
    assert trainable == built.trained_network and parameters == sum(p.numel() for p in built.parameters())
    assert 0 < cost.cached <= cost.image and cost.images == 6
    assert max(cost.peaks.values()) >= sum(cost.held.values()) > 0


@pytest.mark.long
def test_cost_of_checkpointing_is_flops_for_memory():
    plain, recomputed = (
        estimate_cost(load("scenes", [*SMALL, f"diffusion.checkpointing={on}"])) for on in (False, True)
    )
    assert recomputed.image > plain.image and recomputed.peaks["forward"] < plain.peaks["forward"]


@pytest.mark.long
def test_cost_is_printed_without_downloads_or_files(workdir, capsys):
    flags = [f"diffusion.weights={PIPELINE}", "backbone=dino", "backbone.size=small", "size=64", "batch=2"]
    assert main(["show", "coco_stuff", *flags, "--cost"]) == 0
    message = capsys.readouterr().out
    assert all(word in message for word in ("parameters", "PFLOP", "GiB", *GPUS))
    assert "cache: 118,287 images, as published (the data set is not here) x 2 views" in message
    assert not list(workdir.iterdir())
    assert main(["train", "scenes", "--cost"]) == 2


@pytest.mark.parametrize("name", datamodules.names())
def test_cost_knows_the_size_that_the_help_of_a_data_set_names(name):
    counts = re.findall(r"([\d,]+) \+ ([\d,]+)", datamodules.summary(name))
    published = datamodules.factory(name).published_images
    assert [f"{published[split]:,}" for split in published] == [count for pair in counts for count in pair]


# ---- memory presets


@pytest.mark.parametrize("memory", [12, 24, 80])
@pytest.mark.parametrize("images", [1, 4, 6, 32, 256])
def test_memory_preset_divides_a_step_and_keeps_its_images(memory, images):
    config = load("scenes", [f"memory={memory}", f"batch={images}"])
    assert config.batch * config.accumulate == images
    assert config.batch <= images and (images != 256 or config.batch == {12: 2, 24: 8, 80: 32}[memory])
    assert config.diffusion.checkpointing == (memory == 12)
    assert not load("scenes", [f"memory={memory}", "diffusion.checkpointing=false"]).diffusion.checkpointing


def test_memory_without_a_preset_is_refused():
    with pytest.raises(BadConfig, match="memory.*13.*12, 24, 80"):
        load("scenes", ["memory=13"])
