"""What is painted to be judged: each anchor is what its name says, under the same noise."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lumen.core.errors import Diverged
from lumen.core.interfaces import Conditioning, Metric
from lumen.core.random import stable_seed
from lumen.core.registry import datamodules
from lumen.data.datamodule import Loading
from lumen.diffusion.stable_diffusion import latent
from lumen.evaluation.loop import Measurement
from lumen.evaluation.scores import Pieces, Samples, load_samples, save_samples
from lumen.generators.controlnet import ControlledDiffusion
from lumen.training.tasks.layout_to_image import LayoutModule

SAMPLING = {"steps": 2, "guidance": 2.0}


class Image(Conditioning):
    """The image itself as a layout."""

    channels = 3

    def forward(self, batch):
        return batch.image


class Brightness(Metric):
    higher_is_better = True
    title = "brightness"

    def __init__(self):
        super().__init__(torch.nn.Identity())

    def per_image(self, batch, painted):
        return painted.mean((1, 2, 3, 4))

    @staticmethod
    def aggregate(rows):
        return rows.mean()


class Pairs(Brightness):
    title = "pairs"
    samples = 2


@pytest.fixture
def module(pipeline):
    diffusion = ControlledDiffusion(pipeline, 3)
    for parameter in diffusion.controlnet.parameters():  # an untrained ControlNet changes nothing
        parameter.data.add_(0.02)
    return LayoutModule(diffusion, Image())


def other(batch):
    return replace(batch, image=batch.image.roll(1, 0))


def measurement(kind, module, pieces=Path(), **metrics):
    return Measurement(kind, module, metrics, 2, SAMPLING, 5, other, Pieces(pieces))


def painted(kind, module, batch, k=0):
    one = measurement(kind, module)
    return one.paint(batch, one.layout(batch), k)


def sampled(module, batch, layout, k=0):
    seeds = [stable_seed(5, "measure", i, k) for i in batch.id]
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
    names = {kind: set(measurement(kind, module, a=Brightness(), b=Pairs()).judges) for kind in ("real", "test")}
    assert names == {"real": {"brightness"}, "test": {"brightness", "pairs"}}


def test_an_interrupted_pass_goes_on_with_the_batches_it_has(module, batch, tmp_path, monkeypatch):
    def rows():
        one = measurement("real", module, tmp_path, a=Brightness())
        one.test_step(batch, 0)
        return one.judges["brightness"].rows

    before = rows()
    monkeypatch.setattr(Measurement, "painted", lambda *_: pytest.fail("painted again"))
    assert torch.equal(rows()[0], before[0])
    (piece,) = tmp_path.iterdir()
    piece.write_bytes(piece.read_bytes()[:-1])  # as a kill leaves no file of ours, but a full disk may
    with pytest.raises(pytest.fail.Exception, match="painted again"):
        rows()


def test_samples_that_are_no_numbers_are_not_measured(module, batch, monkeypatch):
    monkeypatch.setattr(Measurement, "paint", lambda self, batch, *_: batch.image * float("nan"))
    with pytest.raises(Diverged, match=f"samples of {batch.id[0]} .* not finite"):
        measurement("real", module, a=Brightness()).test_step(batch, 0)


def test_what_every_image_brought_comes_back_from_the_file(tmp_path):
    rows = {"scalar": torch.rand(3), "counts": torch.rand(3, 2, 4)}
    fewer = {"counts": torch.rand(3, 1, 4)}  # as where one sample of an image is judged, not several
    kinds = {kind: Samples(["b", "a", "c"], ["B", "A", "C"], some) for kind, some in (("test", rows), ("real", fewer))}
    save_samples(tmp_path / "s.parquet", kinds)
    found, anchor = load_samples(tmp_path / "s.parquet"), load_samples(tmp_path / "s.parquet", "real")
    assert found.id == ["a", "b", "c"] and found.caption == ["A", "B", "C"]
    assert all(torch.equal(found.rows[title], rows[title][[1, 0, 2]]) for title in rows)
    assert set(anchor.rows) == {"counts"} and torch.equal(anchor.rows["counts"], fewer["counts"][[1, 0, 2]])
