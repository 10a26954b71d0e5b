"""MiDaS inverse depth against the pipeline of transformers, and against the depth of the scenes."""

import torch
from PIL import Image
from transformers import pipeline

from lumen.features.pretrained import SCENES_WEIGHTS


def test_midas_equals_the_normalised_pipeline_of_transformers(scenes, scene_bytes, fitted):
    estimate = pipeline("depth-estimation", model=str(SCENES_WEIGHTS / "midas"), dtype=torch.float32)
    layout = fitted("midas")(scenes)
    for i, image in enumerate(scene_bytes):
        depth = estimate(Image.fromarray(image))["predicted_depth"].squeeze()
        expected = (depth - depth.min()) / (depth.max() - depth.min())
        assert torch.allclose(layout[i, 0], expected, atol=1e-4)
    assert (layout.amin((1, 2, 3)) == 0).all() and (layout.amax((1, 2, 3)) == 1).all()


def test_midas_correlates_with_the_inverse_depth_of_the_scenes(scenes, fitted):
    inverse_depth = [1 / torch.as_tensor(depth) for depth in scenes.extra["depth"]]
    pairs = zip(fitted("midas")(scenes)[:, 0], inverse_depth, strict=True)
    assert all(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1] > 0.8 for a, b in pairs)


def test_midas_of_constant_depth_is_zero(scenes, monkeypatch, build):
    conditioning = build("midas")
    monkeypatch.setattr(conditioning.networks["midas"], "depth", lambda image: torch.full((6, 64, 64), 3.0))
    assert not conditioning(scenes).any()
