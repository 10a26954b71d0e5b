"""HED edges against ControlNet's annotator."""

import os
import pickle

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from lumen.core.errors import WeightsMissing
from lumen.core.interfaces import Batch
from lumen.features.hed import CONTROLNET_FILE, HED, load_hed
from lumen.features.pretrained import SCENES_WEIGHTS

CONVS = [2, 2, 3, 3, 3]  # convolutions of each block


def annotate(weights: dict, image: np.ndarray) -> np.ndarray:
    """Return ControlNet's annotation of an RGB image of bytes, except that side outputs stay in floating point."""
    x, sides = torch.tensor(image).permute(2, 0, 1)[None].float() - weights["norm"].float(), []
    for block, count in enumerate(CONVS, 1):
        x = x if block == 1 else F.max_pool2d(x, 2, 2)
        for k in range(count):
            name = f"block{block}.convs.{k}"
            x = F.relu(F.conv2d(x, weights[f"{name}.weight"].float(), weights[f"{name}.bias"].float(), padding=1))
        name = f"block{block}.projection"
        side = F.conv2d(x, weights[f"{name}.weight"].float(), weights[f"{name}.bias"].float())[0, 0]
        sides.append(cv2.resize(side.numpy(), image.shape[1::-1], interpolation=cv2.INTER_LINEAR))
    return 1 / (1 + np.exp(-np.mean(np.stack(sides, axis=2), axis=2).astype(np.float64)))


def test_hed_equals_the_network_and_the_annotator(scenes, scene_bytes, fitted):
    layout = fitted("hed")(scenes)
    network = load_hed(SCENES_WEIGHTS / "hed").requires_grad_(False)
    assert torch.equal(layout[:, 0], network(torch.tensor(scene_bytes).permute(0, 3, 1, 2).float()))
    weights = load_file(SCENES_WEIGHTS / "hed" / "model.safetensors")
    for i, image in enumerate(scene_bytes):
        assert np.allclose(layout[i, 0], annotate(weights, image), atol=1e-4)


class Exploit:
    """Object whose unpickling creates a directory."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_hed_loads_controlnets_file_and_runs_no_code_in_it(tmp_path, scenes, scene_bytes, build):
    file = tmp_path / CONTROLNET_FILE
    weights = HED().state_dict()
    torch.save(weights, file)
    conditioning = build("hed", weights=str(file))
    assert conditioning.identity == build("hed", weights=str(tmp_path)).identity
    crop = Batch(scenes.image[:1, :, :32, :48], [""], ["a"])
    assert np.allclose(conditioning(crop)[0, 0], annotate(weights, scene_bytes[0, :32, :48]), atol=1e-4)
    file.write_bytes(pickle.dumps(Exploit(tmp_path / "exploited"), protocol=2))
    with pytest.raises(WeightsMissing, match="hed .*HED.save"):
        build("hed", weights=str(file))
    assert not (tmp_path / "exploited").exists()
