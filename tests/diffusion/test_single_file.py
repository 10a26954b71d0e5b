"""Stable Diffusion 1 in one file, written here under the names of its first code, against the networks it was made of.

Source: diffusers, scripts/convert_diffusers_to_original_stable_diffusion.py.
"""

import os
import subprocess
import sys

import numpy as np
import open_clip
import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from lumen.__main__ import main
from lumen.core.errors import WeightsMissing
from lumen.diffusion import loading
from lumen.diffusion.sampling import SAMPLERS
from lumen.diffusion.single_file import CAPTION, INPUT, clip_tokenizer, opener
from lumen.diffusion.stable_diffusion import StableDiffusion
from lumen.runs.export import WeightsFolder

NETWORKS = ("unet", "vae", "text_encoder")
RESNET = {"norm1": "in_layers.0", "conv1": "in_layers.2", "norm2": "out_layers.0", "conv2": "out_layers.3",
          "time_emb_proj": "emb_layers.1", "conv_shortcut": "skip_connection"}  # fmt: skip
ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def to_single_file(parts: StableDiffusion) -> dict[str, Tensor]:
    """Return the weights of all three networks under the names of the first code."""
    unet = {f"model.diffusion_model.{unet_name(name)}": x for name, x in parts.unet.state_dict().items()}
    levels = len(parts.vae.config.block_out_channels)
    vae = {
        # There an attention is a convolution of one pixel.
        f"first_stage_model.{vae_name(name, levels)}": x[..., None, None] if ".to_" in name and x.ndim == 2 else x
        for name, x in parts.vae.state_dict().items()
    }
    text = {f"cond_stage_model.transformer.text_model.{name}": x for name, x in parts.text_encoder.state_dict().items()}
    return {name: tensor.contiguous() for name, tensor in (unet | vae | text).items()}


def unet_name(name: str) -> str:
    names = {"time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
             "conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2",
             "mid_block.attentions.0": "middle_block.1", "mid_block.resnets.0": "middle_block.0",
             "mid_block.resnets.1": "middle_block.2"}  # fmt: skip
    for i in range(4):
        for part, number in (("resnets", 0), ("attentions", 1)):
            names |= {f"down_blocks.{i}.{part}.{j}": f"input_blocks.{3 * i + j + 1}.{number}" for j in range(2)}
            names |= {f"up_blocks.{i}.{part}.{j}": f"output_blocks.{3 * i + j}.{number}" for j in range(3)}
        names[f"down_blocks.{i}.downsamplers.0.conv"] = f"input_blocks.{3 * (i + 1)}.0.op"
        names[f"up_blocks.{i}.upsamplers.0"] = f"output_blocks.{3 * i + 2}.{2 if i else 1}"
    return replace_parts(name, names, RESNET if ".resnets." in name else {})


def vae_name(name: str, levels: int) -> str:
    names = {"mid_block.attentions.0": "mid.attn_1", "mid_block.resnets.0": "mid.block_1",
             "mid_block.resnets.1": "mid.block_2", "conv_norm_out": "norm_out"}  # fmt: skip
    for i in range(levels):
        up = f"up.{levels - 1 - i}"
        names |= {f"down_blocks.{i}.resnets.{j}": f"down.{i}.block.{j}" for j in range(2)}
        names |= {f"up_blocks.{i}.resnets.{j}": f"{up}.block.{j}" for j in range(3)}
        names |= {
            f"down_blocks.{i}.downsamplers.0": f"down.{i}.downsample",
            f"up_blocks.{i}.upsamplers.0": f"{up}.upsample",
        }
    return replace_parts(name, names, ATTENTION if ".attentions." in name else {"conv_shortcut": "nin_shortcut"})


def replace_parts(name: str, blocks: dict[str, str], layers: dict[str, str]) -> str:
    for before, after in (blocks | layers).items():
        name = f".{name}.".replace(f".{before}.", f".{after}.")[1:-1]
    return name


@pytest.fixture(scope="module")
def weights(pipeline):
    """The weights of the small Stable Diffusion under the names of a single file."""
    return to_single_file(pipeline)


def load(tmp_path, weights):
    save_file(weights, tmp_path / "v1-5.safetensors")
    return loading.load(str(tmp_path / "v1-5.safetensors"), "v1")


def test_single_file_holds_the_networks_it_was_made_of(pipeline, weights, tmp_path):
    loaded = load(tmp_path, {name: tensor.half() for name, tensor in weights.items()})
    for name in NETWORKS:
        network, expected = getattr(loaded, name), getattr(pipeline, name).state_dict()
        state = network.state_dict()
        assert expected.keys() == state.keys() and not network.training
        assert all(torch.equal(state[key], expected[key].half().float()) for key in expected)
        assert not any(parameter.requires_grad for parameter in network.parameters())
    assert torch.equal(loaded.scheduler.alphas_cumprod, pipeline.scheduler.alphas_cumprod)
    assert loaded.scheduler.config.steps_offset == 1 and loaded.downscale == pipeline.downscale
    assert loaded.tokenizer("a road").input_ids == pipeline.tokenizer("a road").input_ids
    with torch.device("meta"):
        assert loading.load(loaded.source, "v1").unet.device.type == "meta"


@pytest.mark.parametrize(
    ("shapes", "words"),
    [
        ({INPUT: (320, 9, 3, 3), CAPTION: (320, 768)}, "inpainting model, .* 9 channels"),
        ({INPUT: (320, 8, 3, 3), CAPTION: (320, 768)}, "InstructPix2Pix"),
        ({INPUT: (320, 4, 3, 3), CAPTION: (320, 1024)}, "1024 channels.* diffusers folder"),
        ({INPUT: (320, 4, 3, 3), "conditioner.embedders.0.weight": (1,)}, "SDXL"),
        ({"transformer_blocks.0.weight": (1,)}, "no Stable Diffusion 1"),
        ({INPUT: (32, 4, 3, 3), CAPTION: (32, 32)}, "cannot be read"),  # of an architecture, but without its weights
    ],
)
def test_single_file_of_another_family_is_refused(shapes, words, tmp_path):
    with pytest.raises(WeightsMissing, match=words):
        load(tmp_path, {name: torch.zeros(shape) for name, shape in shapes.items()})


@pytest.mark.parametrize("part", ["first_stage_model", "cond_stage_model", "model.diffusion_model.middle_block"])
def test_single_file_without_a_part_is_refused(part, weights, tmp_path):
    with pytest.raises(WeightsMissing, match="v1-5.safetensors"):
        load(tmp_path, {name: tensor for name, tensor in weights.items() if not name.startswith(part)})


@pytest.mark.parametrize("name", ["v1-5.ckpt", "v1-5.CKPT", "model.pt", "pytorch_model.bin", "v1-5.gguf"])
def test_file_that_is_no_safetensors_is_refused_with_the_line_that_converts_it(name, workdir):
    (workdir / "models").mkdir()
    (workdir / "models" / name).write_bytes(b"x")
    with pytest.raises(WeightsMissing, match=f"from_single_file\\('models/{name}'\\).save_pretrained"):
        loading.load(f"models/{name}", "v1")


def test_tokenizer_of_a_single_file_is_clips():
    texts = ["a red ball, on the Street!", "Zürich 東京 isn't 42", "word " * 100]
    expected = open_clip.get_tokenizer("ViT-B-16")(texts)
    tokenizer = clip_tokenizer()
    tokens = tokenizer(texts, padding="max_length", max_length=77, truncation=True, return_tensors="pt").input_ids
    padded = torch.where(expected == 0, tokenizer.pad_token_id, expected)  # open_clip pads with zeros
    assert torch.equal(tokens, padded)


def test_single_file_is_opened_by_diffusers_with_the_configs_of_an_export(pipeline, weights, tmp_path):
    file = tmp_path / "v1-5.safetensors"
    save_file(weights, file)
    assert WeightsFolder(tmp_path)(str(file), "base") == f'{str(file)!r}, config=str(HERE / "base_configs")'
    stock = getattr(StableDiffusionPipeline, opener(str(file)))(
        str(file), config=str(tmp_path / "base_configs"), safety_checker=None
    )
    for name in NETWORKS:
        state, expected = getattr(stock, name).state_dict(), getattr(pipeline, name).state_dict()
        assert expected.keys() == state.keys() and all(torch.equal(state[key], expected[key]) for key in expected)
    assert stock.tokenizer("a road").input_ids == pipeline.tokenizer("a road").input_ids
    assert torch.equal(stock.scheduler.alphas_cumprod, pipeline.scheduler.alphas_cumprod)
    samplers = [SAMPLERS["dpm"].from_config(parts.scheduler.config) for parts in (stock, pipeline)]
    assert samplers[0].config.timestep_spacing == samplers[1].config.timestep_spacing


@pytest.mark.long
def test_single_file_is_exported_in_programs_that_make_the_images_of_lumen_sample(weights, workdir):
    save_file(weights, "v1-5.safetensors")
    Image.new("RGB", (40, 40), "red").save("photo.png")
    flags = ["size=32", "diffusion.weights=v1-5.safetensors", "backbone=sd", "batch=2", "data.images=4", "steps=1"]
    flags += ["conditioning.vectors=60", "validation=2", "warmup=1", "metrics=[]", "sampling.steps=2", "runs=runs"]
    assert main(["train", "scenes", *flags, "sampling.images=1", "wandb=disabled"]) == 0
    run = next(workdir.glob("runs/scenes/*/seed0"))
    assert main(["export", str(run), "out"]) == 0
    assert main(["sample", str(run), "photo.png", "a red house", "out=samples/"]) == 0
    command = [sys.executable, "pipeline.py", "../photo.png", "a red house", "0"]
    subprocess.run(command, cwd="out", check=True, env=os.environ | {"HF_HUB_OFFLINE": "1"})
    own, stock = (np.array(Image.open(path)).astype(int) for path in ("samples/0.png", "out/0.png"))
    assert abs(own - stock).max() <= 1 and (own != stock).mean() <= 1e-3
    assert 'config="base_configs"' in (workdir / "out" / "README.md").read_text()
