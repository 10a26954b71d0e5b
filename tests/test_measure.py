"""What is painted to be judged: each anchor is what its name says, under the same noise."""

from dataclasses import replace

import pytest
import torch

from datamodules._base import Loading
from lumen.contracts import Conditioning, Metric
from lumen.diffusion import ControlledDiffusion
from lumen.measure import Measurement
from lumen.module import LayoutModule
from lumen.order import seed_of
from lumen.pipeline import latent
from lumen.registry import datamodules

SAMPLING = {"steps": 2, "guidance": 2.0}


class Image(Conditioning):
    """The image itself as a layout."""

    channels = 3

    def forward(self, batch):
        return batch.image


class Brightness(Metric):
    higher_is_better = True

    def __init__(self):
        super().__init__(torch.nn.Identity())

    def each(self, batch, painted):
        return painted.mean((1, 2, 3, 4))

    def figure(self, rows):
        return rows.mean()


class Pairs(Brightness):
    samples = 2


@pytest.fixture
def module(pipeline):
    diffusion = ControlledDiffusion(pipeline, 3)
    for parameter in diffusion.controlnet.parameters():  # an untrained ControlNet changes nothing
        parameter.data.add_(0.02)
    return LayoutModule(diffusion, Image())


def other(batch):
    return replace(batch, image=batch.image.roll(1, 0))


def measurement(kind, module, **metrics):
    return Measurement(kind, module, metrics, 2, SAMPLING, 5, other)


def painted(kind, module, batch, k=0):
    one = measurement(kind, module)
    return one.paint(batch, one.layout(batch), k)


def sampled(module, batch, layout, k=0):
    seeds = [seed_of(5, "measure", i, k) for i in batch.id]
    return module.diffusion.sample(batch.caption, layout, seeds, (32, 32), **SAMPLING)


def test_every_kind_paints_what_its_name_says(module, batch):
    vae = module.diffusion.pipeline.vae
    kept = vae.decode(latent(vae, batch.image) / vae.config.scaling_factor).sample.clamp(-1, 1)
    assert torch.equal(painted("real", module, batch), batch.image)
    assert torch.allclose(painted("vae", module, batch), kept, atol=1e-5)
    assert torch.equal(painted("test", module, batch), sampled(module, batch, batch.image))
    assert torch.equal(painted("text", module, batch), sampled(module, batch, None))
    assert torch.equal(painted("shuffled", module, batch), sampled(module, batch, batch.image.roll(1, 0)))
    assert not torch.equal(painted("test", module, batch, 1), painted("test", module, batch))


@pytest.mark.parametrize("batch", [1, 2, 3, 5])
def test_another_image_is_the_same_whatever_the_batches_and_never_itself(batch):
    data = datamodules.build("scenes", loading=Loading(size=32, batch=batch, measured=5))
    pairs = {i: o for some in data.test_dataloader() for i, o in zip(some.id, data.other(some).id, strict=True)}
    ids = [record.id for record in data.records("test")]
    assert pairs == dict(zip(ids, ids[1:] + ids[:1], strict=True))


def test_an_anchor_without_noise_is_not_judged_by_what_needs_two_samples(module):
    names = {kind: set(measurement(kind, module, one=Brightness(), two=Pairs()).judges) for kind in ("real", "test")}
    assert names == {"real": {"one"}, "test": {"one", "two"}}
