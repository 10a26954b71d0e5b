"""Rearranger: what is cached, what each term of the loss teaches, and where outputs begin."""

import pytest
import torch

from lumen.config.experiment import load
from lumen.core.errors import BadConfig
from lumen.core.interfaces import Conditioning, Generator, Optimization
from lumen.runs.build import build_task
from lumen.runs.data import build_data
from lumen.training.tasks.rearranger import Rearranger

TINY = [
    "task=rearranger",
    "size=32",
    "diffusion.weights=none",
    "data.images=6",
    "workers=0",
    "generator.sampler_steps=1",
]
TINY += ["generator.sampler_steps=1", "task.clusters=4", "task.styles=4", "task.width=16"]


def build(*flags):
    config = load("scenes", [*TINY, *flags])
    data = build_data(config)
    return build_task(config, data), data


@pytest.fixture(scope="module")
def fitted():
    """A task that learns from three labelled images, and a batch of its data."""
    task, data = build("conditioning=segmap", "task.pairs=3")
    task.fit_statistics(data)
    return task, data.grid_batch(2).to("cpu")


def test_rearranger_caches_what_its_conditioning_needs(fitted):
    arguments = {"conditioning": {"name": "x"}}
    assert list(fitted[0].cache_keys(arguments)) == ["bank", "proxies", "labels"]
    layouts, photos = build("conditioning=canny")[0], build("conditioning=scribble")[0]
    assert list(layouts.cache_keys(arguments)) == ["bank", "proxies", "layouts"]
    assert list(photos.cache_keys(arguments)) == ["bank", "proxies", "labels", "photo_proxies"]
    assert layouts.needs_images(["bank", "proxies"]) and not layouts.needs_images(["bank", "proxies", "layouts"])


def test_rearranger_reads_cached_outputs_as_it_computes_them(fitted):
    task, batch = fitted
    computed = task.bank.complete(batch)
    assert {name: value.dtype for name, value in computed.items() if name != "bank"} == dict.fromkeys(
        ("proxies", "labels"), torch.int16
    )
    batch.cached = {"bank": computed["bank"]}
    again = task.bank.complete(batch)
    batch.cached = {}
    assert all(torch.equal(again[name], value) for name, value in computed.items())
    assert computed["labels"].shape == (2, 32, 32) and 0 <= computed["labels"].min() <= computed["labels"].max() < 11


def test_each_network_of_the_rearranger_learns_from_its_own_terms(fitted):
    task, batch = fitted
    cached = task.bank.complete(batch)
    mask = cached["proxies"].long()
    losses = task.losses(
        task.bank.standardize(cached["bank"]), mask, mask.roll(1, 0), task.bank.layout_of(cached, batch.id), mask
    )
    learners = {"reader": {"reader"}, "mapper": {"mapper"}, "critic": {"critic"}}
    learners |= {key: {"rearranger"} for key in ("same", "mask", "adversary")}
    for name, expected in learners.items():
        task.zero_grad(set_to_none=True)
        losses[name].backward(retain_graph=True)
        reached = {key.partition(".")[0] for key, p in task.named_parameters() if p.grad is not None and p.grad.any()}
        assert reached == expected, name
    task.zero_grad(set_to_none=True)


def test_rearranger_outputs_begin_as_styles_of_the_checkpoint(fitted):
    task, batch = fitted
    seeds = [[0, 1], [4, 5]]  # modulo four styles the same
    outputs = task.outputs(batch, seeds)
    assert outputs.shape == (2, 2, 3, 32, 32) and torch.equal(outputs[:, 0], outputs[:, 1])
    styles = torch.stack(batch.extra["style"])
    assert torch.equal(styles, task.outputs(batch, seeds, "source"))
    assert torch.equal(task.outputs(batch, seeds, "shuffled", lambda: batch), outputs)
    assert torch.equal(task.outputs(batch, seeds[:1], "real")[:, 0], batch.image)
    restored = build("conditioning=segmap", "task.pairs=3")[0]
    restored.load_state_dict(task.state_dict())
    assert torch.equal(restored.outputs(batch, seeds), outputs)


def test_pairs_beyond_the_training_images_are_refused():
    task, data = build("conditioning=scribble", "task.pairs=7")
    with pytest.raises(BadConfig, match="task.pairs=7 is not possible: the data set has 6 training images"):
        task.fit_statistics(data)


def test_rearranger_needs_a_generator_that_is_split():
    parts = {"generator": Generator(), "conditioning": Conditioning(), "optimization": Optimization()}
    with pytest.raises(BadConfig, match="generator=unconditional"):
        Rearranger(**parts, classes=("sky",), size=32)
