"""Evaluation loop: outputs of every row under the same noise, scored in passes that resume."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from lumen.core.errors import Diverged
from lumen.core.interfaces import Conditioning, Metric, Optimization
from lumen.core.random import stable_seed
from lumen.core.registry import datamodules
from lumen.data.datamodule import DataModule
from lumen.data.source import LoaderConfig
from lumen.diffusion.stable_diffusion import encode_latents
from lumen.evaluation.loop import EvaluationLoop
from lumen.evaluation.saved_samples import HASH_KEY, SampleFolders, SavedSamples
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


@pytest.fixture
def folders(tmp_path):
    return SampleFolders(tmp_path / "run", tmp_path / "shared", is_saving=True)


def score_rows(task, batch, folders, rows=("test", "text"), rules=None):
    """Return the rounded outputs of rows, saved in folders or read from there."""
    outputs = {}
    for row in rows:
        loop = EvaluationLoop(
            row, task, {}, 2, SAMPLING, SEED, roll_images, PartialScores(Path()),
            saved=folders.of_row(task, row, rules or {}),
        )  # fmt: skip
        loop.on_test_epoch_start()
        outputs[row] = loop.outputs(batch)
    return outputs


def test_saved_samples_are_those_of_the_same_weights_and_rules_to_the_bit(task, batch, folders, monkeypatch):
    fresh = {row: build_loop(row, task).outputs(batch) for row in ("test", "text")}
    assert all(map(torch.equal, score_rows(task, batch, folders).values(), fresh.values()))
    monkeypatch.setattr(LayoutToImage, "outputs", lambda *_, **__: pytest.fail("sampled again"))
    reader = replace(folders, is_saving=False)
    assert all(map(torch.equal, score_rows(task, batch, reader).values(), fresh.values()))
    for rules, other in (({"seed": 1}, batch), ({}, replace(batch, id=["a", "b", "d"]))):
        with pytest.raises(pytest.fail.Exception):
            score_rows(task, other, reader, ["test"], rules)
    next(task.generator.controlnet.parameters()).data.add_(1e-3)
    score_rows(task, batch, reader, ["text"])  # which no ControlNet has a part in
    with pytest.raises(pytest.fail.Exception):
        score_rows(task, batch, reader, ["test"])
    files = sorted(folders.run.rglob("*.png"))
    assert len(files) == 2 * len(batch.id) == len(list(folders.shared.rglob("*.png")))  # the row "text" is shared
    with Image.open(files[0]) as file:
        pixels = torch.from_numpy(np.array(file)).permute(2, 0, 1)
    assert torch.equal(pixels / 127.5 - 1, fresh["test"][0, 0])


@pytest.mark.parametrize("damage", ["cut", "empty", "changed", "renamed", "missing"])
def test_saved_samples_that_are_damaged_are_sampled_again(damage, tmp_path, capsys):
    saved = SavedSamples(tmp_path, "test", {}, is_saving=True)
    saved.directory = tmp_path / "test"
    ids, pixels = ["a/1", "b"], torch.randint(0, 256, (2, 2, 3, 8, 8), dtype=torch.uint8)
    saved.save(ids, pixels)
    assert torch.equal(saved.load(ids, 2), pixels) and not saved.lacks(ids, 2)
    first, second, *_ = sorted(tmp_path.rglob("*.png"))
    if damage == "changed":
        with Image.open(first) as file:
            array, text = np.array(file), PngInfo()
            text.add_itxt(HASH_KEY, file.info[HASH_KEY])
        array[0, 0, 0] ^= 1
        Image.fromarray(array).save(first, pnginfo=text)
    elif damage == "missing":
        first.unlink()
    else:
        damaged = {"cut": first.read_bytes()[:-40], "empty": b"", "renamed": second.read_bytes()}
        first.write_bytes(damaged[damage])
    assert saved.load(ids, 2) is None and saved.lacks(ids, 2) == (damage == "missing")
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == (damage != "missing") and all(str(first) in line for line in printed)
    saved.save(ids, pixels)
    assert torch.equal(saved.load(ids, 2), pixels)


def test_saved_samples_of_an_interrupted_evaluation_are_completed(task, batch, folders):
    """Scores of batches that were scored before samples were saved do not stand in for samples."""
    partial = PartialScores(folders.run / "measuring")
    arguments = ("test", task, {"a": Brightness()}, 2, SAMPLING, SEED, roll_images, partial)
    EvaluationLoop(*arguments).test_step(batch, 0)
    loop = EvaluationLoop(*arguments, saved=folders.of_row(task, "test", {}))
    loop.on_test_epoch_start()
    loop.test_step(batch, 0)
    assert len(list(folders.run.rglob("*.png"))) == 6


def test_saved_samples_are_none_of_rows_without_randomness(task, folders):
    rows = {row for row in ("test", *task.reference_rows) if folders.of_row(task, row, {})}
    assert rows == {"test", "text", "shuffled"}
    task.output_kind = ("images", "edits")
    assert folders.of_row(task, "test", {}) is None
    assert not folders.run.exists() and not folders.shared.exists()


@pytest.mark.parametrize("ranks", [1, 2, 3, 5])
def test_evaluation_images_are_shared_evenly_by_ranks(ranks):
    source = datamodules.build("scenes", loader_config=LoaderConfig(size=32, batch_size=2, eval_images=11))
    data, shares = DataModule(source), []
    for rank in range(ranks):
        data.trainer = SimpleNamespace(global_rank=rank, world_size=ranks)
        shares.append(list(data.test_dataloader().dataset.indices))
    assert sorted(position for share in shares for position in share) == list(range(11))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
