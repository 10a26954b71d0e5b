"""Promises of every generator: shapes, determinism, frozen networks, no dependence on the batch."""

import pytest
import torch

from lumen.config.experiment import load
from lumen.core.registry import generators
from lumen.generators.controlnet import ControlNet
from lumen.runs.build import build_task
from lumen.runs.data import build_data

TINY = ["size=32", "diffusion.weights=none", "backbone.size=tiny", "backbone.weights=none"]
SAMPLING = {"sampler": "ddim", "steps": 2, "guidance": 2.0}


@pytest.fixture(scope="module", params=generators.names())
def generator(request):
    chosen = "conditioning" in generators.literal(request.param, "requires", {})
    flags = [f"generator={request.param}", *([] if chosen else ["conditioning=blank"])]
    flags += [f"generator.{key}=2" for key in generators.arguments(request.param) if key.endswith("_steps")]
    flags += ["generator.weights=none"] if "weights" in generators.arguments(request.param) else []
    config = load("scenes", [*TINY, *flags])
    task = build_task(config, build_data(config))
    task.generator.channels = task.conditioning.channels
    return task.generator


@pytest.fixture
def layout(generator) -> torch.Tensor:
    return torch.rand(3, generator.channels, 32, 32, generator=torch.Generator().manual_seed(0))


def test_generator_trains_only_what_it_registers(generator):
    registered = {id(p) for p in generator.parameters()}
    frozen = [p for network in generator.networks.values() for p in network.parameters()]
    assert all(p.requires_grad for p in generator.parameters())
    assert not any(p.requires_grad or id(p) in registered for p in frozen)
    assert generator.identity.keys() == generator.networks.keys() and generator.source


def test_generator_without_parameters_requires_a_run_of_no_steps(generator, request):
    name = request.node.callspec.params["generator"]
    steps = generators.literal(name, "requires", {}).get("steps")
    assert (steps == 0) == (not list(generator.parameters())) == (not generator.state_dict())


def test_generator_loss_depends_on_the_keys_alone(generator, batch, layout):
    moments = generator.encode(batch.image)
    keys = [(0, image_id, 1) for image_id in batch.id]
    losses = generator.loss(moments, batch.caption, layout, keys)
    assert losses.shape == (3,) and bool(losses.isfinite().all())
    assert losses.requires_grad == bool(list(generator.parameters()))
    assert torch.equal(losses, generator.loss(moments, batch.caption, layout, keys))
    alone = generator.loss(moments[1:2], batch.caption[1:2], layout[1:2], keys[1:2])
    assert torch.allclose(alone, losses[1:2], atol=1e-5)


def test_generator_samples_are_images_by_seed(generator, batch, layout):
    images = generator.sample(batch.caption, layout, [1, 2, 3], (32, 32), **SAMPLING)
    assert images.shape == (3, 3, 32, 32) and images.abs().max() <= 1
    again = generator.sample(batch.caption[:1], layout[:1], [1], (32, 32), **SAMPLING)
    # An eighth of a grey level; untrained networks amplify the rounding of a batch of another size.
    assert (again - images[:1]).abs().mean() < 1e-3 and not torch.allclose(again, images[1:2], atol=1e-2)
    assert not torch.equal(generator.sample(batch.caption, None, [4, 5, 6], (32, 32), **SAMPLING), images)
    assert generator.reconstruct(batch.image).shape == batch.image.shape


def test_generator_samples_of_captions_alone_are_those_of_the_frozen_networks(generator, batch):
    """Runs of all generators share the reference row "caption alone", so it must not depend on what was learnt."""
    frozen = ControlNet(base=generator.base, channels=1)
    first, second = (
        g.sample_latents(batch.caption, None, [1, 2, 3], (32, 32), **SAMPLING) for g in (generator, frozen)
    )
    assert torch.equal(first, second) and frozen.protocol().items() <= generator.protocol().items()


def test_generator_samples_without_the_layout_where_control_ends_at_once(generator, batch, layout):
    options = SAMPLING | {"control_end": 0.0}
    samples = generator.sample_latents(batch.caption, layout, [1, 2, 3], (32, 32), **options)
    other = generator.sample_latents(batch.caption, layout.roll(1, 1).roll(9, 2), [1, 2, 3], (32, 32), **options)
    assert samples.isfinite().all()
    if generator.prompts(batch.caption, layout) == batch.caption and list(generator.parameters()):
        assert torch.equal(samples, other)
