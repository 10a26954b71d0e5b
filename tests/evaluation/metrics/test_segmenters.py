"""Segmenters of other kinds and other label lists: found as transformers finds, judged in the classes both know."""

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
from lumen.evaluation.label_spaces import PANOPTIC, Space, space
from lumen.features.pretrained import SCENES, transformers_folder
from lumen.scenes.world import CLASSES as SCENE

CLASSES = ("sky", "ground", "house", "tree")
STUFF = tuple(name for id, name in enumerate(COCO_STUFF) if id not in UNUSED)
SIZE = {"height": 32, "width": 32}


def swin() -> SwinConfig:
    stages = ["stage1", "stage2", "stage3", "stage4"]
    return SwinConfig(
        image_size=32, embed_dim=8, depths=[1] * 4, num_heads=[1, 1, 2, 2], window_size=4, out_features=stages
    )


def segformer(folder, labels):
    config = SegformerConfig(hidden_sizes=[8] * 4, depths=[1] * 4, num_attention_heads=[1] * 4, decoder_hidden_size=8)
    config.id2label = labels
    return saved(folder, SegformerForSemanticSegmentation(config)), SegformerImageProcessor(size=SIZE)


def maskformer(folder, labels):
    parts = {"num_queries": 5, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16}
    parts |= {"d_model": 32, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
    detr = MaskFormerConfig().decoder_config
    for key, value in parts.items():
        setattr(detr, key, value)
    config = MaskFormerConfig(
        fpn_feature_size=32, mask_feature_size=32, backbone_config=swin(), decoder_config=detr, id2label=labels
    )
    return saved(folder, MaskFormerForInstanceSegmentation(config)), MaskFormerImageProcessor(size=SIZE)


def mask2former(folder, labels):
    config = Mask2FormerConfig(
        backbone_config=swin(), feature_size=32, mask_feature_size=32, hidden_dim=32, num_queries=5, encoder_layers=1,
        decoder_layers=2, num_attention_heads=2, encoder_feedforward_dim=16, dim_feedforward=16, id2label=labels,
    )  # fmt: skip
    return saved(folder, Mask2FormerForUniversalSegmentation(config)), Mask2FormerImageProcessor(size=SIZE)


def oneformer(folder, labels):
    config = OneFormerConfig(
        backbone_config=swin(), conv_dim=32, mask_dim=32, hidden_dim=32, num_queries=5, encoder_layers=1,
        decoder_layers=2, query_dec_layers=1, num_attention_heads=2, encoder_feedforward_dim=16, dim_feedforward=16,
        text_encoder_width=32, text_encoder_num_layers=1, task_seq_len=16, max_seq_len=16, id2label=labels,
    )  # fmt: skip
    tokenizer = AutoTokenizer.from_pretrained(SCENES / "sd" / "tokenizer")
    pictures = OneFormerImageProcessor(size=SIZE)
    pictures.class_info_file = "ade20k_panoptic.json"  # as published ones have it: a file of the hub
    tokenizer.save_pretrained(folder)
    model = saved(folder, OneFormerForUniversalSegmentation(config))
    return model, OneFormerProcessor(pictures, tokenizer, task_seq_length=16)


def saved(folder, model):
    with torch.no_grad():  # as made, every pixel would be of one class
        for parameter in model.parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.5)
    model.save_pretrained(folder)
    return model.eval()


@pytest.fixture
def images():
    """Bytes as [-1, 1], so that rounding to bytes changes nothing."""
    pixels = np.random.default_rng(0).integers(0, 256, (3, 4, 4, 3)).repeat(16, 1).repeat(16, 2)
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1


@pytest.mark.parametrize("make", [segformer, maskformer, mask2former, oneformer])
def test_a_segmenter_finds_what_transformers_finds(make, images, tmp_path):
    torch.manual_seed(1)
    model, processor = make(tmp_path, dict(enumerate(CLASSES)))
    getattr(processor, "image_processor", processor).save_pretrained(tmp_path)
    photos = [Image.fromarray(((i + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()) for i in images]
    words = {"task_inputs": ["semantic"] * 3} if make is oneformer else {}
    with torch.no_grad():
        output = model(**processor(images=photos, **words, return_tensors="pt"))
    expected = torch.stack(processor.post_process_semantic_segmentation(output, [(64, 64)] * 3))
    found = metrics.build("miou", segmenter=str(tmp_path), classes=CLASSES).found(images, (64, 64))
    assert len(expected.unique()) > 1 and torch.equal(found, expected)


def test_a_pickle_is_read_where_it_holds_tensors_alone(tmp_path, images):
    torch.manual_seed(0)
    model, processor = segformer(tmp_path, dict(enumerate(CLASSES)))
    processor.save_pretrained(tmp_path)
    same = metrics.build("miou", segmenter=str(tmp_path), classes=CLASSES).found(images, (64, 64))
    (tmp_path / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    again = metrics.build("miou", segmenter=str(tmp_path), classes=CLASSES).found(images, (64, 64))
    assert torch.equal(same, again)
    torch.save(model, tmp_path / "pytorch_model.bin")
    with pytest.raises(WeightsMissing, match="segmenter cannot be read"):
        metrics.build("miou", segmenter=str(tmp_path), classes=CLASSES)


def test_the_hub_is_asked_for_a_pickle_only_where_it_has_no_safetensors(tmp_path, monkeypatch):
    asked = []

    def snapshot(identifier, revision, allow_patterns):
        asked.append(allow_patterns)
        if "pytorch_model*.bin*" in allow_patterns:
            (tmp_path / "pytorch_model.bin").touch()
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    assert transformers_folder("org/model", "segmenter", None, ["*.json"]) == tmp_path
    assert asked == [["*.json", "*.safetensors"], ["*.json", "pytorch_model*.bin*"]]
    (tmp_path / "model.safetensors").touch()
    assert transformers_folder("org/model", "segmenter", None, ["*.json"]) == tmp_path and len(asked) == 3


def test_the_panoptic_merge_is_cocos():
    """36 of the 91 classes of stuff stay, 43 become 17, 12 are removed; with the 80 things there are 133."""
    stuff = STUFF[80:]
    fate = {name: PANOPTIC.get(name, name) for name in stuff}
    assert sum(name == become for name, become in fate.items()) == 36
    assert sum(become is None for become in fate.values()) == 12
    assert len({become for become in fate.values() if become and become.endswith("-merged")}) == 17
    assert not set(STUFF[:80]) & PANOPTIC.keys() and PANOPTIC.keys() <= set(COCO_STUFF)
    names = {PANOPTIC.get(name, name) for name in STUFF} - {None}
    assert len(names) == 133
    assert {"tree-merged", "sky-other-merged", "rug-merged", "floor-wood", "water-other", "person"} <= names


@pytest.mark.parametrize("classes", [STUFF, COCO_STUFF])
def test_a_panoptic_segmenter_is_judged_in_its_133_classes(classes):
    names = list(dict.fromkeys(PANOPTIC.get(name, name) for name in STUFF if PANOPTIC.get(name, name)))[::-1]
    found = space(dict(enumerate(names)), classes)
    assert found.merged and sorted(found.names) == sorted(names)
    assert [found.names[n] for n in found.found] == names
    for name, place in zip(classes, found.truth, strict=True):
        assert place == 133 if PANOPTIC.get(name, name) is None else found.names[place] == PANOPTIC.get(name, name)


def test_merged_labels_are_compared_as_merged(monkeypatch):
    """By a matrix of the four classes that "bush", "tree", "grass", "moss", "wood" and "person" are to COCO."""
    classes = ("person", "bush", "tree", "grass", "moss", "wood")
    labels = {0: "grass-merged", 1: "tree-merged", 2: "person"}
    metric = metrics.build("miou", segmenter="scenes", classes=SCENE)
    metric.space = space(labels, classes)
    metric.meaning = torch.tensor(metric.space.found)
    metric.belongs = torch.tensor([*metric.space.truth, *[3] * (IGNORE + 1 - len(classes))])
    rng = torch.Generator().manual_seed(0)
    mask = torch.randint(0, 6, (2, 8, 8), generator=rng)
    mask[:, 0] = IGNORE
    seen = torch.randint(0, 3, (2, 8, 8), generator=rng)
    monkeypatch.setattr(metric, "found", lambda images, size: metric.meaning[seen])
    merged = {"person": "person", "bush": "tree", "tree": "tree", "grass": "grass", "moss": "grass"}
    truth = np.array([merged.get(classes[i]) if i != IGNORE else None for i in mask.flatten()], object)
    said = np.array([labels[int(i)].removesuffix("-merged") for i in seen.flatten()], object)
    kept = truth != None  # noqa: E711
    expected = {
        name: ((truth == name) & (said == name))[kept].sum() / ((truth == name) | (said == name))[kept].sum()
        for name in ("person", "tree", "grass")
    }
    rows = metric.per_image(Batch(torch.zeros(2, 3, 8, 8), ["", ""], ["a", "b"], mask), torch.zeros(2, 1, 3, 8, 8))
    assert metric.key == "miou-panoptic" and rows.shape == (2, 3, 3)
    assert metric.aggregate(rows).item() == pytest.approx(np.mean(list(expected.values())))
    parts = {name.removesuffix("-merged"): float(part) for name, part in metric.breakdown(rows).items()}
    assert parts == pytest.approx(expected)


# As published: of SegFormer and Mask2Former, and of OneFormer, where they differ from the data set's first synonyms.
SEGFORMER = {"bed": "bed ", "television": "television receiver"}
ONEFORMER = {
    "windowpane": "window ", "bathtub": "tub", "railing": "rail", "streetlight": "street lamp", "television": "tv",
    "airplane": "plane", "apparel": "clothes", "swimming pool": "pool", "waterfall": "falls", "ashcan": "trash can",
    "screen door": "screen door, screen", "blind": "blind, screen", "earth": "earth, ground",
    "toilet": "toilet, can, commode, crapper, pot, potty, stool, throne", "land": "land, ground, soil",
    "buffet": "buffet, counter, sideboard", "base": "base, pedestal, stand",
}  # fmt: skip


@pytest.mark.parametrize("theirs", [SEGFORMER, ONEFORMER])
def test_published_names_of_ade20k_are_known(theirs):
    labels = {i: theirs.get(name, name) for i, name in enumerate(ADE20K)}
    assert space(labels, ADE20K) == Space(ADE20K, tuple(range(150)), tuple(range(150)))


def test_a_segmenter_must_know_the_classes():
    with pytest.raises(BadConfig, match="but not 1 of the data set's 12 classes, such as 'zebra'"):
        metrics.build("miou", segmenter="scenes", classes=(*SCENE, "zebra"))
