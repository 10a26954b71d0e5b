"""Small networks of the offline world, opened by the libraries whose formats they have, without any of LUMEN's code."""

import json
from pathlib import Path

import open_clip
import pytest
import timm
import torch
import transformers
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file

from lumen.core.tensor_hashing import fingerprint
from lumen.diffusion.loading import load
from lumen.features.pretrained import SCENES_WEIGHTS

# Networks of transformers, each named by its config.
DIRECTORIES = sorted(path.parent for path in SCENES_WEIGHTS.glob("*/config.json") if "dtype" in path.read_text())


def transformers_class(directory: Path) -> type:
    return getattr(transformers, json.loads((directory / "config.json").read_text())["architectures"][0])


@pytest.mark.parametrize("directory", DIRECTORIES, ids=lambda path: path.name)
def test_weights_of_transformers_open_in_float32_from_a_file_of_halves(directory):
    network = transformers_class(directory).from_pretrained(directory)
    assert network.dtype == torch.float32
    tensors = load_file(directory / "model.safetensors").values()
    assert {tensor.dtype for tensor in tensors if tensor.is_floating_point()} == {torch.float16}
    given = transformers_class(directory).from_pretrained(directory, dtype=torch.float32)
    assert fingerprint(network) == fingerprint(given)


def test_weights_of_the_pipeline_open_and_sample_in_one_precision():
    pipeline = StableDiffusionPipeline.from_pretrained(SCENES_WEIGHTS / "sd", safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)
    base = load("scenes", "tiny")
    for name, network in base.networks.items():
        assert fingerprint(getattr(pipeline, name)) == fingerprint(network), name
    sample = pipeline("a red house", num_inference_steps=1, output_type="pt").images
    assert sample.dtype == torch.float32 and sample.isfinite().all()


@pytest.mark.parametrize("name", ["dino", "dinov2", "features"])
def test_weights_of_timm_open_in_float32(name):
    network = timm.create_model(f"local-dir:{SCENES_WEIGHTS / name}", pretrained=True)
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}


def test_weights_of_open_clip_open_in_float32():
    network = open_clip.create_model(f"local-dir:{SCENES_WEIGHTS / 'clip'}")
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}
