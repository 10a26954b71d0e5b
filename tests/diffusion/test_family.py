"""Frozen Stable Diffusion from folders and files of every form: those of another family are refused by name."""

import json
import pickle
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from lumen.__main__ import main
from lumen.core.errors import WeightsMissing
from lumen.diffusion import loading

NETWORKS = ("unet", "vae", "text_encoder")


@pytest.fixture(scope="module")
def folder(pipeline, tmp_path_factory):
    """A diffusers folder; tests copy it before they change it."""
    path = tmp_path_factory.mktemp("pipeline")
    for name in (*NETWORKS, "tokenizer", "scheduler"):
        getattr(pipeline, name).save_pretrained(path / name)
    (path / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    return path


@pytest.fixture
def copied(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "copy")


def change(path, **entries):
    """Change entries of a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


@pytest.mark.parametrize(
    ("file", "entries", "words"),
    [
        ("unet/config.json", {"in_channels": 9}, "an inpainting model, .* 9 channels, not 4"),
        ("unet/config.json", {"in_channels": 8}, "InstructPix2Pix"),
        ("unet/config.json", {"in_channels": 5}, "a depth-to-image model"),
        ("unet/config.json", {"in_channels": 7, "num_class_embeds": 1000}, "an upscaler"),
        ("unet/config.json", {"in_channels": 16}, "16 channels"),
        ("unet/config.json", {"out_channels": 8}, "returns 8 channels"),
        ("unet/config.json", {"addition_embed_type": "text_time"}, "SDXL"),
        ("unet/config.json", {"class_embed_type": "projection"}, "class_embed_type=projection"),
        ("unet/config.json", {"encoder_hid_dim_type": "ip_image_proj"}, "encoder_hid_dim_type"),
        ("unet/config.json", {"time_cond_proj_dim": 256}, "time_cond_proj_dim=256"),
        ("unet/config.json", {"cross_attention_dim": 64}, "64 channels of a caption, and its text encoder has 32"),
        ("unet/config.json", {"_class_name": "UNetSpatioTemporalConditionModel"}, "UNetSpatioTemporalConditionModel"),
        ("text_encoder/config.json", {"model_type": "t5"}, "a t5, not a CLIP"),
        ("text_encoder/config.json", {"hidden_size": 48}, "has 48"),
        ("scheduler/scheduler_config.json", {"_class_name": "FlowMatchEulerDiscreteScheduler"}, "FlowMatchEuler"),
        ("scheduler/scheduler_config.json", {"_class_name": "EDMEulerScheduler"}, "EDMEulerScheduler"),
        ("scheduler/scheduler_config.json", {"prediction_type": "sample"}, "'sample', not epsilon or v_prediction"),
        ("scheduler/scheduler_config.json", {"use_flow_sigmas": True}, "flow"),
        ("vae/config.json", {"_class_name": "AutoencoderDC"}, "AutoencoderDC"),
        ("vae/config.json", {"latent_channels": 16}, "16 channels"),
        ("vae/config.json", {"shift_factor": 0.1}, "shifted"),
    ],
)
def test_folder_of_another_family_is_refused(file, entries, words, copied):
    change(copied / file, **entries)
    with torch.device("meta"), pytest.raises(WeightsMissing, match=words):  # a cost estimate refuses it as well
        loading.load(str(copied), "v1")
    with pytest.raises(WeightsMissing, match=words):
        loading.load(str(copied), "v1")


def test_folder_of_another_pipeline_is_refused(copied):
    (copied / "text_encoder_2").mkdir()
    change(copied / "model_index.json", _class_name="StableDiffusionXLPipeline")
    with pytest.raises(WeightsMissing, match="StableDiffusionXLPipeline, which has two text encoders"):
        loading.load(str(copied), "v1")
    (copied / "unet").rename(copied / "transformer")
    change(copied / "model_index.json", _class_name="PixArtSigmaPipeline")
    with pytest.raises(WeightsMissing, match="PixArtSigmaPipeline, .* transformer"):
        loading.load(str(copied), "v1")
    with pytest.raises(WeightsMissing, match="UNet2DConditionModel alone; give the folder above it"):
        loading.load(str(copied / "transformer"), "v1")
    (copied / "vae").rename(copied / "checkpoint")
    (copied / "checkpoint/config.json").unlink()
    with pytest.raises(WeightsMissing, match="single file diffusion_pytorch_model.safetensors; give that file"):
        loading.load(str(copied / "checkpoint"), "v1")


@pytest.mark.parametrize("content", ["", "[]", "3", "[" * 100_000, '{"in_channels": [4]}', "\udcff"])
def test_config_that_is_damaged_is_named(content, copied):
    (copied / "unet/config.json").write_text(content, errors="surrogateescape")
    with pytest.raises(WeightsMissing, match=str(copied)):
        loading.load(str(copied), "v1")


def test_autoencoder_of_other_latents_is_refused(folder, copied):
    change(copied / "vae/config.json", scaling_factor=0.13025)
    with pytest.raises(WeightsMissing, match="scale 0.13025, and those of the U-Net 0.18215"):
        loading.load(str(folder), "v1", vae=str(copied / "vae"))
    assert loading.load(str(copied), "v1").vae.config.scaling_factor == 0.13025  # the pipeline's own


def rename(path, name):
    return path.rename(path.with_name(name))


@pytest.mark.parametrize("form", ["fp16", "both", "shards"])
def test_safe_forms_of_a_folder_are_read(form, pipeline, copied):
    if form == "shards":
        shutil.rmtree(copied / "unet")
        pipeline.unet.save_pretrained(copied / "unet", max_shard_size="1MB")
    for file in [] if form == "shards" else list(copied.rglob("*.safetensors")):
        shutil.copy(file, file.with_name(f"{file.stem}.{'fp16' if form == 'both' else form}.safetensors"))
        if form != "both":
            file.unlink()
    loaded = loading.load(str(copied), "v1")
    for name in NETWORKS:
        expected = getattr(pipeline, name).state_dict()
        assert all(torch.equal(tensor, expected[key]) for key, tensor in getattr(loaded, name).state_dict().items())


@pytest.mark.parametrize("part", NETWORKS)
def test_pickle_in_a_folder_is_refused_with_the_line_that_converts_it(part, copied):
    (file,) = (copied / part).glob("*.safetensors")
    file.with_suffix(".bin").write_bytes(pickle.dumps({}))
    file.unlink()
    with pytest.raises(WeightsMissing, match=r"\.bin, a pickle.*use_safetensors=False\)\.save_pretrained"):
        loading.load(str(copied), "v1")


@pytest.mark.parametrize(("part", "block"), [("unet", "mid_block"), ("vae", "decoder"), ("text_encoder", "encoder")])
def test_folder_without_a_part_of_a_network_is_refused(part, block, copied, capfd):
    (file,) = (copied / part).glob("*.safetensors")
    save_file({key: x for key, x in load_file(file).items() if f"{block}." not in key}, file, {"format": "pt"})
    with pytest.raises(WeightsMissing, match=f"no weights for '{block}'"):
        loading.load(str(copied), "v1")
    assert capfd.readouterr() == ("", "")


def test_family_is_checked_before_a_run_starts(copied, workdir, capsys):
    change(copied / "unet/config.json", in_channels=9)
    flags = ["backbone.size=tiny", "backbone.weights=none", "size=32", "workers=0", "wandb=disabled"]
    assert main(["train", "scenes", *flags, f"diffusion.weights={copied}"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("lumen: ") and "inpainting" in line
    assert not list(workdir.rglob("provenance.json"))
