"""SegFormer (Xie et al. 2021, arXiv:2105.15203) by size or from a folder, with a fresh head for given classes."""

from typing import Any

from transformers import SegformerConfig, SegformerForSemanticSegmentation

from lumen.features.pretrained import building_on_meta, loading_errors, resolve_transformers_weights

# transformers' defaults are MiT-B0. The tiny network has strides of 2, for images of 64 px.
SIZES: dict[str, dict[str, Any]] = {
    "b0": {},
    "tiny": {
        "hidden_sizes": [24, 48, 80, 112], "depths": [1, 2, 2, 2], "strides": [2, 2, 2, 2], "patch_sizes": [5, 3, 3, 3],
        "sr_ratios": [4, 2, 1, 1], "num_attention_heads": [1, 2, 4, 4], "mlp_ratios": [3, 3, 3, 3],
        "decoder_hidden_size": 64, "hidden_dropout_prob": 0.0, "classifier_dropout_prob": 0.0, "drop_path_rate": 0.0,
    },
}  # fmt: skip


def build_segformer(weights: str, size: str, classes: tuple[str, ...]) -> SegformerForSemanticSegmentation:
    """Return a SegFormer that is trainable.

    Args:
        weights: A folder or hub id, whose encoder is taken, and whose head if it has as many classes; or "none".
        size: Architecture where weights is "none": a key of `SIZES`.

    Raises:
        WeightsMissing: The weights do not exist or belong to another architecture.
    """
    labels = {"id2label": dict(enumerate(classes)), "label2id": {name: i for i, name in enumerate(classes)}}
    path = resolve_transformers_weights(weights, "segformer", None, ["config.json"])
    if path is None:
        return SegformerForSemanticSegmentation(SegformerConfig(**SIZES[size], **labels))
    with loading_errors(path, "segformer", "config.json and .safetensors of a SegFormer"):
        config = SegformerConfig.from_pretrained(path, local_files_only=True, **labels)
        if building_on_meta():
            return SegformerForSemanticSegmentation(config)
        network, report = SegformerForSemanticSegmentation.from_pretrained(
            path, config=config, local_files_only=True, ignore_mismatched_sizes=True, output_loading_info=True,
            weights_only=True,
        )  # fmt: skip
        if missing := [name for name in report["missing_keys"] if not name.startswith("decode_head")]:
            raise ValueError(f"it has no weights for '{missing[0]}' of a SegFormer")
    return network.train()
