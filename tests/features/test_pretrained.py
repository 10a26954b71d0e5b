"""Folders of weights: each network refuses those of others, and a folder that lacks a part, by name."""

import shutil

import pytest
from safetensors.torch import load_file, save_file
from transformers import (
    CLIPSegConfig,
    CLIPSegForImageSegmentation,
    SegformerConfig,
    SegformerImageProcessor,
    SegformerModel,
    ViTImageProcessor,
)

from lumen.core.errors import WeightsMissing
from lumen.core.registry import backbones, conditionings, metrics
from lumen.features.pretrained import SCENES_WEIGHTS

BUILD = {
    "dino": lambda weights: backbones.build("dino", weights=weights),
    "dinov2": lambda weights: backbones.build("dinov2", weights=weights),
    "clip": lambda weights: backbones.build("clip", weights=weights),
    "sd": lambda weights: backbones.build("sd", weights=weights),
    "hed": lambda weights: conditionings.build("hed", weights=weights),
    "midas": lambda weights: conditionings.build("midas", weights=weights),
    "segmenter": lambda weights: metrics.build("miou", segmenter=weights, classes=("a",)),
    "depth": lambda weights: metrics.build("si_depth", depth=weights),
    "vqa": lambda weights: metrics.build("tifa", vqa=weights, questions=lambda batch: []),
    "features": lambda weights: metrics.build("kid", network=weights),
}
# Both are Vision Transformers of timm, and MiDaS is a network for depth: those folders do serve the other.
ALIKE = [{"dino", "dinov2"}, {"midas", "depth"}, {"features", "dino"}, {"features", "dinov2"}]
PAIRS = [(a, b) for a in BUILD for b in BUILD if a != b and {a, b} not in ALIKE]


@pytest.mark.parametrize(("network", "folder"), [*PAIRS[::3], ("dino", "features"), ("midas", "depth")])
def test_weights_of_another_network_are_refused(network, folder):
    with pytest.raises(WeightsMissing, match=f"weights of {network} .*{folder}"):
        BUILD[network](str(SCENES_WEIGHTS / folder))


NAMES = [
    "models/x.ckpt",
    "models/x.safetensors",
    "models/y.pth",
    "",
    "./nothing",
    "a/b/c",
    "x" * 300,
    "a\0b",
    "~nobody/x",
]


@pytest.mark.parametrize("network", ["dino", "clip", "sd", "midas", "segmenter"])
def test_weights_that_are_no_folder_are_refused(network, workdir):
    (workdir / "models").mkdir()
    (workdir / "models/x.ckpt").touch()
    (workdir / "models/x.safetensors").touch()
    for name in NAMES:
        with pytest.raises(WeightsMissing) as error:
            BUILD[network](name)
        assert "hf download" not in str(error.value) and f"weights of {network}" in str(error.value)


def test_weights_that_lack_a_head_are_refused(tmp_path, capfd):
    sizes = {"depths": [1] * 4, "hidden_sizes": [8, 8, 10, 16], "decoder_hidden_size": 16}
    network = SegformerModel(SegformerConfig(**sizes))
    network.save_pretrained(tmp_path)
    SegformerImageProcessor().save_pretrained(tmp_path)
    with pytest.raises(WeightsMissing, match="SegformerModel, not a class whose name ends in Segmentation"):
        BUILD["segmenter"](str(tmp_path))
    config = tmp_path / "config.json"
    config.write_text(config.read_text().replace("SegformerModel", "SegformerForSemanticSegmentation"))
    capfd.readouterr()
    with pytest.raises(WeightsMissing, match="no weights for 'decode_head' of a SegformerForSemanticSegmentation"):
        BUILD["segmenter"](str(tmp_path))
    assert capfd.readouterr() == ("", "")


def test_weights_that_segment_by_a_prompt_are_refused(tmp_path):
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2}
    text, vision = {**sizes, "num_hidden_layers": 1}, {**sizes, "num_hidden_layers": 4, "image_size": 32}
    decoder = {"extract_layers": [1, 2, 3], "reduce_dim": 8, "decoder_num_attention_heads": 2}
    config = CLIPSegConfig(text_config=text, vision_config=vision, **decoder, decoder_intermediate_size=8)
    CLIPSegForImageSegmentation(config).save_pretrained(tmp_path)
    ViTImageProcessor().save_pretrained(tmp_path)
    with pytest.raises(WeightsMissing, match="ViTImageProcessor has no post_process_semantic_segmentation"):
        BUILD["segmenter"](str(tmp_path))


def test_weights_that_predict_metres_are_no_inverse_depth():
    with pytest.raises(WeightsMissing, match="depth in metres"):
        conditionings.build("midas", weights=str(SCENES_WEIGHTS / "depth"))


def test_weights_of_a_model_that_writes_captions_are_no_vqa(tmp_path):
    folder = shutil.copytree(SCENES_WEIGHTS / "vqa", tmp_path / "captions")
    config, weights = folder / "config.json", folder / "model.safetensors"
    tensors = load_file(weights)
    save_file(
        {name: x for name, x in tensors.items() if not name.startswith("text_encoder")}, weights, {"format": "pt"}
    )
    with pytest.raises(WeightsMissing, match="no weights for 'text_encoder' of a BlipForQuestionAnswering"):
        BUILD["vqa"](str(folder))
    config.write_text(config.read_text().replace("BlipForQuestionAnswering", "BlipForConditionalGeneration"))
    with pytest.raises(WeightsMissing, match="BlipForConditionalGeneration, not BlipForQuestionAnswering"):
        BUILD["vqa"](str(folder))
