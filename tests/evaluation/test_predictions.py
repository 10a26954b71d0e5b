"""Evaluation of a task that predicts label maps, disparity and boxes, on data that it has seen and on others."""

import json

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer

from lumen.config.experiment import load
from lumen.core.boxes import NO_BOX, boxes_to_array
from lumen.core.errors import Diverged
from lumen.core.interfaces import Optimization, Task
from lumen.core.registry import datamodules
from lumen.data.datamodule import DataModule
from lumen.data.source import LoaderConfig
from lumen.evaluation.loop import EvaluationLoop
from lumen.evaluation.prediction_files import PredictionFiles
from lumen.evaluation.scores import PartialScores, load_scores, save_scores
from lumen.runs.build import build_metrics
from lumen.scenes.objects import KINDS


class Oracle(Task):
    """Task that predicts the truth by day, and at night labels that are half a frame off."""

    output_kind = ("labels", "disparity", "boxes")
    worst = 0.0

    def num_outputs(self, row, samples):
        return 1

    def outputs(self, batch, seeds, row="test", other=None, **sampling):
        labels = [m.roll(32, 1) if d == "night" else m for m, d in zip(batch.mask, batch.extra["domain"], strict=True)]
        boxes = [torch.from_numpy(boxes_to_array(c["objects"], KINDS)).float() for c in batch.extra["boxes"]]
        return {
            "labels": torch.stack(labels)[:, None],
            "disparity": torch.stack(batch.extra["disparity"])[:, None] + self.worst,
            "boxes": torch.nn.utils.rnn.pad_sequence(boxes, batch_first=True, padding_value=NO_BOX)[:, None],
        }


@pytest.fixture
def evaluation(tmp_path):
    """A data module of scenes by day, with those at night and in fog as unseen ones; a task; its loop."""
    loader_config = LoaderConfig(size=64, batch_size=5, eval_images=12)
    sources = [
        datamodules.build("scenes", skies=skies, loader_config=loader_config) for skies in (["clear"], ["night", "fog"])
    ]
    config, data, task = load("scenes", ["metrics=[disparity_rmse,mds]"]), DataModule(*sources), Oracle(Optimization())
    metrics = build_metrics(config, DataModule(sources[0]), task)  # others are refused beside unseen data
    config.metrics = {"miou": {"segmenter": None}}
    metrics |= build_metrics(config, data, task)
    files = PredictionFiles(tmp_path, KINDS)
    partial = PartialScores(tmp_path)
    loop = EvaluationLoop("test", task, metrics, 2, {}, 0, data.mismatched_batch, partial, predictions=files)
    return data, task, loop


def test_predictions_of_every_kind_are_scored_by_domain(evaluation, tmp_path):
    data, _, loop = evaluation
    trainer = Trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    trainer.test(loop, datamodule=data, verbose=False)
    values = loop.values
    names = ["miou", "miou-fog", "miou-night", "miou-mean"]
    assert {"test/disparity_rmse", "test/mds-scenes", *(f"test/{name}" for name in names)} <= values.keys()
    assert values["test/miou"] == values["test/miou-fog"] == 1 and 0 < values["test/miou-night"] < 0.5
    assert values["test/miou-mean"] == pytest.approx((1 + values["test/miou-night"]) / 2)
    assert values["test/disparity_rmse"] == pytest.approx(0, abs=1e-6) and values[
        "test/mds-scenes/AP"
    ] == pytest.approx(1)
    low, high = values["test/miou-night_95"]
    assert low < values["test/miou-night"] < high and len(loop.scores.id) == 24
    save_scores(tmp_path / "samples.parquet", {"test": loop.scores})
    for key, scores in load_scores(tmp_path / "samples.parquet").scores.items():
        assert torch.equal(scores, loop.scores.scores[key]) and len(scores) == 24


def test_predicted_boxes_are_written_as_files_of_the_benchmark(evaluation, tmp_path):
    data, _, loop = evaluation
    for _ in range(2):  # one that the first was killed before, and a file of which was removed
        batch = next(iter(data.test_dataloader()))
        loop.test_step(batch, 0)
        for image_id, content in zip(batch.id, batch.extra["boxes"], strict=True):
            path = tmp_path / "predBbox3d" / f"{image_id}_predBbox3d.json"
            objects = json.loads(path.read_text())["objects"]
            labelled = boxes_to_array(content["objects"], KINDS)
            assert np.allclose(boxes_to_array(objects, KINDS), labelled, rtol=1e-6) and "score" in objects[0]
        assert not loop.predictions.lacks(batch.id)
        path.unlink()
        assert loop.predictions.lacks(batch.id)


def test_predictions_that_are_not_finite_are_refused(evaluation):
    data, task, loop = evaluation
    task.worst = float("nan")
    with pytest.raises(Diverged, match="scene-"):
        loop.outputs(next(iter(data.test_dataloader())))
