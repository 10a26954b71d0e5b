"""Segmenters of several architectures and label lists: equality with transformers, and matching of label spaces."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from transformers import (
    AutoTokenizer,
    Mask2FormerConfig,
    Mask2FormerForUniversalSegmentation,
    Mask2FormerImageProcessor,
    MaskFormerConfig,
    MaskFormerForInstanceSegmentation,
    MaskFormerImageProcessor,
    OneFormerConfig,
    OneFormerForUniversalSegmentation,
    OneFormerImageProcessor,
    OneFormerProcessor,
    SegformerConfig,
    SegformerForSemanticSegmentation,
    SegformerImageProcessor,
    SwinConfig,
)

from datamodules.coco_stuff import UNUSED
from lumen.core.errors import BadConfig, WeightsMissing
from lumen.core.interfaces import IGNORE, Batch
from lumen.core.registry import metrics
from lumen.data.class_names import ADE20K, COCO_STUFF
from lumen.evaluation.label_spaces import PANOPTIC_CLASS, LabelSpace, match_label_space
from lumen.features.pretrained import SCENES_WEIGHTS, resolve_transformers_weights
from lumen.scenes.world import CLASSES as SCENE

CLASSES = ("sky", "ground", "house", "tree")
STUFF = tuple(name for id, name in enumerate(COCO_STUFF) if id not in UNUSED)
SIZE = {"height": 32, "width": 32}


def swin() -> SwinConfig:
    stages = ["stage1", "stage2", "stage3", "stage4"]
    return SwinConfig(
        image_size=32, embed_dim=8, depths=[1] * 4, num_heads=[1, 1, 2, 2], window_size=4, out_features=stages
    )


def segformer(directory, labels):
    config = SegformerConfig(hidden_sizes=[8] * 4, depths=[1] * 4, num_attention_heads=[1] * 4, decoder_hidden_size=8)
    config.id2label = labels
    return save_random(directory, SegformerForSemanticSegmentation(config)), SegformerImageProcessor(size=SIZE)


def maskformer(directory, labels):
    parts = {"num_queries": 5, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16}
    parts |= {"d_model": 32, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
    detr = MaskFormerConfig().decoder_config
    for key, value in parts.items():
        setattr(detr, key, value)
    config = MaskFormerConfig(
        fpn_feature_size=32, mask_feature_size=32, backbone_config=swin(), decoder_config=detr, id2label=labels
    )
    return save_random(directory, MaskFormerForInstanceSegmentation(config)), MaskFormerImageProcessor(size=SIZE)


def mask2former(directory, labels):
    config = Mask2FormerConfig(
        backbone_config=swin(), feature_size=32, mask_feature_size=32, hidden_dim=32, num_queries=5, encoder_layers=1,
        decoder_layers=2, num_attention_heads=2, encoder_feedforward_dim=16, dim_feedforward=16, id2label=labels,
    )  # fmt: skip
    return save_random(directory, Mask2FormerForUniversalSegmentation(config)), Mask2FormerImageProcessor(size=SIZE)


def oneformer(directory, labels):
    config = OneFormerConfig(
        backbone_config=swin(), conv_dim=32, mask_dim=32, hidden_dim=32, num_queries=5, encoder_layers=1,
        decoder_layers=2, query_dec_layers=1, num_attention_heads=2, encoder_feedforward_dim=16, dim_feedforward=16,
        text_encoder_width=32, text_encoder_num_layers=1, task_seq_len=16, max_seq_len=16, id2label=labels,
    )  # fmt: skip
    tokenizer = AutoTokenizer.from_pretrained(SCENES_WEIGHTS / "sd" / "tokenizer")
    images = OneFormerImageProcessor(size=SIZE)
    images.class_info_file = "ade20k_panoptic.json"  # a file of the hub, as published processors have it
    tokenizer.save_pretrained(directory)
    model = save_random(directory, OneFormerForUniversalSegmentation(config))
    return model, OneFormerProcessor(images, tokenizer, task_seq_length=16)


def save_random(directory, model):
    with torch.no_grad():  # with transformers' initialisation every pixel would be of one class
        for parameter in model.parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.5)
    model.save_pretrained(directory)
    return model.eval()


@pytest.fixture
def images():
    """Bytes as [-1, 1], so that rounding to bytes changes nothing."""
    pixels = np.random.default_rng(0).integers(0, 256, (3, 4, 4, 3)).repeat(16, 1).repeat(16, 2)
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1


def build_miou(directory):
    return metrics.build("miou", segmenter=str(directory), classes=CLASSES)


@pytest.mark.parametrize("architecture", [segformer, maskformer, mask2former, oneformer])
def test_segmenter_predicts_what_transformers_predicts(architecture, images, tmp_path):
    torch.manual_seed(1)
    model, processor = architecture(tmp_path, dict(enumerate(CLASSES)))
    getattr(processor, "image_processor", processor).save_pretrained(tmp_path)
    photos = [Image.fromarray(((i + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()) for i in images]
    prompt = {"task_inputs": ["semantic"] * 3} if architecture is oneformer else {}
    with torch.no_grad():
        output = model(**processor(images=photos, **prompt, return_tensors="pt"))
    expected = torch.stack(processor.post_process_semantic_segmentation(output, [(64, 64)] * 3))
    assert len(expected.unique()) > 1 and torch.equal(build_miou(tmp_path).predict(images, (64, 64)), expected)


def test_segmenter_weights_are_loaded_from_a_pickle_of_tensors_alone(tmp_path, images):
    torch.manual_seed(0)
    model, processor = segformer(tmp_path, dict(enumerate(CLASSES)))
    processor.save_pretrained(tmp_path)
    expected = build_miou(tmp_path).predict(images, (64, 64))
    (tmp_path / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    assert torch.equal(build_miou(tmp_path).predict(images, (64, 64)), expected)
    torch.save(model, tmp_path / "pytorch_model.bin")
    with pytest.raises(WeightsMissing, match="segmenter"):
        build_miou(tmp_path)


def test_segmenter_weights_are_fetched_as_pickle_only_without_safetensors(tmp_path, monkeypatch):
    requests = []

    def snapshot(identifier, revision, allow_patterns):
        requests.append(allow_patterns)
        if "pytorch_model*.bin*" in allow_patterns:
            (tmp_path / "pytorch_model.bin").touch()
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    assert resolve_transformers_weights("org/model", "segmenter", None, ["*.json"]) == tmp_path
    assert requests == [["*.json", "*.safetensors"], ["*.json", "pytorch_model*.bin*"]]
    (tmp_path / "model.safetensors").touch()
    assert resolve_transformers_weights("org/model", "segmenter", None, ["*.json"]) == tmp_path and len(requests) == 3


def test_panoptic_label_space_is_cocos():
    """36 of the 91 classes of stuff stay, 43 become 17, 12 are removed; with the 80 things there are 133."""
    stuff = {name: PANOPTIC_CLASS.get(name, name) for name in STUFF[80:]}
    assert sum(name == merged for name, merged in stuff.items()) == 36
    assert sum(merged is None for merged in stuff.values()) == 12
    assert len({merged for merged in stuff.values() if merged and merged.endswith("-merged")}) == 17
    assert not set(STUFF[:80]) & PANOPTIC_CLASS.keys() and PANOPTIC_CLASS.keys() <= set(COCO_STUFF)
    names = {PANOPTIC_CLASS.get(name, name) for name in STUFF} - {None}
    assert len(names) == 133
    assert {"tree-merged", "sky-other-merged", "rug-merged", "floor-wood", "water-other", "person"} <= names


@pytest.mark.parametrize("classes", [STUFF, COCO_STUFF])
def test_panoptic_label_space_has_133_classes(classes):
    panoptic = {name: PANOPTIC_CLASS.get(name, name) for name in classes}
    names = list(dict.fromkeys(panoptic[name] for name in STUFF if panoptic[name]))[::-1]
    space = match_label_space(dict(enumerate(names)), classes)
    assert space.merged and sorted(space.names) == sorted(names)
    assert [space.names[n] for n in space.label_index] == names
    assert [(*space.names, None)[n] for n in space.class_index] == list(panoptic.values())


def test_miou_of_merged_labels_equals_that_of_their_unions(monkeypatch):
    """In the four classes that "bush", "tree", "grass", "moss", "wood" and "person" are to COCO's panoptic task."""
    classes = ("person", "bush", "tree", "grass", "moss", "wood")
    labels = {0: "grass-merged", 1: "tree-merged", 2: "person"}
    metric = metrics.build("miou", segmenter="scenes", classes=SCENE)
    metric.set_label_space(match_label_space(labels, classes))
    rng = torch.Generator().manual_seed(0)
    mask = torch.randint(0, 6, (2, 8, 8), generator=rng)
    mask[:, 0] = IGNORE
    label = torch.randint(0, 3, (2, 8, 8), generator=rng)
    monkeypatch.setattr(metric, "predict", lambda images, size: metric.class_of_label[label])
    merged = {"person": "person", "bush": "tree", "tree": "tree", "grass": "grass", "moss": "grass"}
    target = np.array([merged.get(classes[i]) if i != IGNORE else None for i in mask.flatten()], object)
    prediction = np.array([labels[int(i)].removesuffix("-merged") for i in label.flatten()], object)
    target, prediction = (x[target != None] for x in (target, prediction))  # noqa: E711
    expected = {
        name: ((target == name) & (prediction == name)).sum() / ((target == name) | (prediction == name)).sum()
        for name in ("person", "tree", "grass")
    }
    scores = metric.per_image(Batch(torch.zeros(2, 3, 8, 8), ["", ""], ["a", "b"], mask), torch.zeros(2, 1, 3, 8, 8))
    assert metric.key == "miou-panoptic" and scores.shape == (2, 2, 3)
    assert metric.aggregate(scores).item() == pytest.approx(np.mean(list(expected.values())))
    ious = {name.removesuffix("-merged"): float(iou) for name, iou in metric.breakdown(scores).items()}
    assert ious == pytest.approx(expected)


# Published names that differ from the data set's first synonyms: of SegFormer and Mask2Former, and of OneFormer.
SEGFORMER = {"bed": "bed ", "television": "television receiver"}
ONEFORMER = {
    "windowpane": "window ", "bathtub": "tub", "railing": "rail", "streetlight": "street lamp", "television": "tv",
    "airplane": "plane", "apparel": "clothes", "swimming pool": "pool", "waterfall": "falls", "ashcan": "trash can",
    "screen door": "screen door, screen", "blind": "blind, screen", "earth": "earth, ground",
    "toilet": "toilet, can, commode, crapper, pot, potty, stool, throne", "land": "land, ground, soil",
    "buffet": "buffet, counter, sideboard", "base": "base, pedestal, stand",
}  # fmt: skip


@pytest.mark.parametrize("published", [SEGFORMER, ONEFORMER])
def test_label_space_knows_published_names_of_ade20k(published):
    labels = {i: published.get(name, name) for i, name in enumerate(ADE20K)}
    assert match_label_space(labels, ADE20K) == LabelSpace(ADE20K, tuple(range(150)), tuple(range(150)))


def test_segmenter_that_lacks_a_class_is_refused():
    with pytest.raises(BadConfig, match="segmenter=scenes.* 1 of .* 12 classes.*'zebra'"):
        metrics.build("miou", segmenter="scenes", classes=(*SCENE, "zebra"))
