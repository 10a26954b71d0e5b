"""Evaluation loop: outputs of every row under the same noise, scored in passes that resume."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lumen.core.errors import Diverged
from lumen.core.interfaces import Conditioning, Metric, Optimization
from lumen.core.random import stable_seed
from lumen.core.registry import datamodules
from lumen.data.datamodule import DataModule
from lumen.data.source import LoaderConfig
from lumen.diffusion.stable_diffusion import encode_latents
from lumen.evaluation.loop import EvaluationLoop
from lumen.evaluation.scores import PartialScores
from lumen.generators.controlnet import ControlNet
from lumen.training.tasks.layout_to_image import LayoutToImage

SAMPLING = {"steps": 2, "guidance": 2.0}
SEED = 5


class ImageLayout(Conditioning):
    """The image itself as its layout."""

    channels = 3

    def forward(self, batch):
        return batch.image


class Brightness(Metric):
    higher_is_better = True
    key = "brightness"

    def __init__(self):
        super().__init__(torch.nn.Identity())

    def per_image(self, batch, generated):
        return generated.mean((1, 2, 3, 4))

    @staticmethod
    def aggregate(scores):
        return scores.mean()


class PairBrightness(Brightness):
    key = "pair_brightness"
    samples_per_image = 2


@pytest.fixture
def task(pipeline):
    """A task whose ControlNet has an effect, which an untrained one has not."""
    generator = ControlNet(base=pipeline, channels=3)
    for parameter in generator.controlnet.parameters():
        parameter.data.add_(0.02)
    return LayoutToImage(generator=generator, conditioning=ImageLayout(), optimization=Optimization())


def roll_images(batch):
    """Return the batch with the image of another position at each."""
    return replace(batch, image=batch.image.roll(1, 0))


def build_loop(row, task, partial=Path(), **metrics):
    return EvaluationLoop(row, task, metrics, 2, SAMPLING, SEED, roll_images, PartialScores(partial))


def sample(task, batch, layout, k=0):
    """Return the k-th sample of each image by the generator itself."""
    seeds = [stable_seed(SEED, "measure", image_id, k) for image_id in batch.id]
    return task.generator.sample(batch.caption, layout, seeds, (32, 32), **SAMPLING)


def test_evaluation_rows_generate_from_what_their_names_say(task, batch):
    task.output_kind = "arrays"  # which are not rounded, as images are
    vae = task.generator.base.vae
    round_trip = vae.decode(encode_latents(vae, batch.image) / vae.config.scaling_factor).sample.clamp(-1, 1)
    rows = {row: build_loop(row, task).outputs(batch) for row in ("test", *task.reference_rows)}
    assert {row: outputs.shape[1] for row, outputs in rows.items()} == {
        "test": 2,
        "real": 1,
        "vae": 1,
        "text": 2,
        "shuffled": 2,
    }
    assert torch.equal(rows["real"][:, 0], batch.image)
    assert torch.allclose(rows["vae"][:, 0], round_trip, atol=1e-5)
    layouts = {"test": batch.image, "text": None, "shuffled": batch.image.roll(1, 0)}
    for row, layout in layouts.items():
        assert all(torch.equal(rows[row][:, k], sample(task, batch, layout, k)) for k in range(2))
    assert not torch.equal(rows["test"][:, 0], rows["test"][:, 1])


def test_evaluation_rounds_images_to_8_bits(task, batch):
    levels = (build_loop("real", task).outputs(batch) + 1) * 127.5
    assert torch.allclose(levels, levels.round(), atol=1e-3)
    assert torch.equal(levels[:, 0].round().byte(), batch.pixels)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 5])
def test_mismatched_batch_is_another_image_whatever_the_batch_size(batch_size):
    loader_config = LoaderConfig(size=32, batch_size=batch_size, eval_images=5)
    data = DataModule(datamodules.build("scenes", loader_config=loader_config))
    pairs = {}
    for batch in data.test_dataloader():
        pairs |= zip(batch.id, data.mismatched_batch(batch).id, strict=True)
    ids = [record.id for record in data.source.records("test")]
    assert pairs == dict(zip(ids, ids[1:] + ids[:1], strict=True))


def test_evaluation_leaves_out_metrics_that_need_more_samples_than_a_row_has(task):
    metrics = {"a": Brightness(), "b": PairBrightness()}
    names = {row: set(build_loop(row, task, **metrics).metrics) for row in ("real", "test")}
    assert names == {"real": {"brightness"}, "test": {"brightness", "pair_brightness"}}


def test_evaluation_resumes_from_partial_scores(task, batch, tmp_path, monkeypatch):
    def score():
        loop = build_loop("real", task, tmp_path, a=Brightness())
        loop.test_step(batch, 0)
        return loop.metrics["brightness"].rows[0]

    expected = score()
    monkeypatch.setattr(EvaluationLoop, "outputs", lambda *_: pytest.fail("generated again"))
    assert torch.equal(score(), expected)
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:-1])  # a kill leaves no such file, but a full disk may
    with pytest.raises(pytest.fail.Exception, match="generated again"):
        score()


def test_evaluation_refuses_samples_that_are_not_finite(task, batch, monkeypatch):
    monkeypatch.setattr(type(task), "outputs", lambda self, batch, *_, **__: batch.image[:, None] * float("nan"))
    with pytest.raises(Diverged, match=rf"{batch.id[0]} \(real\) .* not finite"):
        build_loop("real", task, a=Brightness()).test_step(batch, 0)
