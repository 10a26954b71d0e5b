"""Promises of every generator: shapes, determinism, frozen networks, no dependence on the batch."""

import pytest
import torch

from lumen.config.experiment import load
from lumen.core.registry import generators
from lumen.runs.build import build_task
from lumen.runs.data import build_data

TINY = ["size=32", "diffusion.weights=none", "backbone.size=tiny", "backbone.weights=none", "conditioning=blank"]
SAMPLING = {"sampler": "ddim", "steps": 2, "guidance": 2.0}


@pytest.fixture(scope="module", params=generators.names())
def generator(request):
    config = load("scenes", [*TINY, f"generator={request.param}"])
    return build_task(config, build_data(config)).generator


@pytest.fixture
def layout() -> torch.Tensor:
    return torch.rand(3, 1, 32, 32, generator=torch.Generator().manual_seed(0))


def test_generator_trains_only_what_it_registers(generator):
    registered = {id(p) for p in generator.parameters()}
    frozen = [p for network in generator.networks.values() for p in network.parameters()]
    assert all(p.requires_grad for p in generator.parameters())
    assert not any(p.requires_grad or id(p) in registered for p in frozen)
    assert generator.identity.keys() == generator.networks.keys() and generator.source


def test_generator_loss_depends_on_the_keys_alone(generator, batch, layout):
    moments = generator.encode(batch.image)
    keys = [(0, image_id, 1) for image_id in batch.id]
    losses = generator.loss(moments, batch.caption, layout, keys)
    assert losses.shape == (3,) and losses.requires_grad and bool(losses.isfinite().all())
    assert torch.equal(losses, generator.loss(moments, batch.caption, layout, keys))
    alone = generator.loss(moments[1:2], batch.caption[1:2], layout[1:2], keys[1:2])
    assert torch.allclose(alone, losses[1:2], atol=1e-5)


def test_generator_samples_are_images_by_seed(generator, batch, layout):
    images = generator.sample(batch.caption, layout, [1, 2, 3], (32, 32), **SAMPLING)
    assert images.shape == (3, 3, 32, 32) and images.abs().max() <= 1
    again = generator.sample(batch.caption[:1], layout[:1], [1], (32, 32), **SAMPLING)
    assert torch.allclose(again, images[:1], atol=1e-4)
    assert not torch.equal(generator.sample(batch.caption, None, [4, 5, 6], (32, 32), **SAMPLING), images)
    assert generator.reconstruct(batch.image).shape == batch.image.shape
