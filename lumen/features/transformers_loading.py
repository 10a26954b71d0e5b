"""Vision networks of transformers from a folder or hub id; code of their own is never run."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from transformers import AutoBackbone, AutoConfig, AutoModel, AutoModelForDepthEstimation, PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from lumen.core.errors import BadConfig
from lumen.features.pretrained import (
    building_on_meta,
    load_network,
    loading_errors,
    resolve_transformers_weights,
    resolve_weights,
)
from lumen.features.transformers_network import TransformersNetwork

FILES = ["config.json", "preprocessor_config.json", "video_preprocessor_config.json"]
CONTENTS = "config.json, preprocessor_config.json and the weights of a vision model of transformers"
AUTO_CLASSES = (AutoModel, AutoBackbone, AutoModelForDepthEstimation)


def build_transformers_backbone(
    name: str,
    source: str | None,
    config: PreTrainedConfig | None,
    layer: int | Iterable[int],
    facet: str,
    fit: bool,
    weights: str,
    revision: str | None,
) -> TransformersNetwork:
    """Return a backbone with a network of transformers.

    Args:
        name: Name of the backbone.
        source: Folder or hub id of the model; None if it has none.
        config: Architecture of an untrained network; None takes the config.json of the source.
        weights: "published" for those of the source, "none", or another folder or hub id.
        revision: Commit, tag or branch of a hub id.

    Raises:
        WeightsMissing: The weights or the config do not exist, or cannot be read.
        BadConfig: The model needs code of its own, or is no vision model.
    """
    origin = source if weights == "published" and source else weights
    path = resolve_transformers_weights(origin, name, revision, FILES)
    if path is not None:
        config = _read_config(path, name)
    elif config is None:
        with torch.device("cpu"):  # an architecture without weights needs its config too
            config = _read_config(resolve_weights(source, name, None, revision, FILES[:1]), name)
    auto_class = _find_class(config, name)
    with loading_errors(path, name, CONTENTS):
        with torch.device("meta"):
            architecture = auto_class.from_config(config).eval()
        if path is None or building_on_meta():
            model = auto_class.from_config(config)
        else:
            model = load_network(type(architecture), path, dtype=torch.float32)
        mean, std = _read_card(path)
    return TransformersNetwork(name, model, architecture, mean, std, layer, facet, fit)


def _read_config(path: Path, name: str) -> PreTrainedConfig:
    """Return the config of a folder.

    Raises:
        WeightsMissing: It is missing or damaged.
        BadConfig: Its network is code that comes with the model.
    """
    with loading_errors(path, name, CONTENTS):
        content = json.loads((path / "config.json").read_bytes())
        kind = content["model_type"]
    if kind not in CONFIG_MAPPING:
        own = "code of its own, which is never run" if "auto_map" in content else "no class in transformers"
        raise BadConfig(f"{name}: the model in {path} is a '{kind}', which has {own}; choose another model.")
    with loading_errors(path, name, CONTENTS):
        return AutoConfig.from_pretrained(path, trust_remote_code=False, local_files_only=True)


def _find_class(config: PreTrainedConfig, name: str) -> Any:
    """Return the auto class of transformers that has a network for a config.

    Raises:
        BadConfig: None has.
    """
    for auto_class in AUTO_CLASSES:
        if type(config) in auto_class._model_mapping:
            return auto_class
    raise BadConfig(f"{name}: a '{config.model_type}' is no vision model of transformers; choose another model.")


def _read_card(path: Path | None) -> tuple[list[float], list[float]]:
    """Return mean and standard deviation of the colours that a folder's preprocessing names; ImageNet's without one."""
    for file in FILES[1:]:
        if path is not None and (path / file).is_file():
            card = json.loads((path / file).read_bytes())
            if "image_mean" in card:
                return list(card["image_mean"]), list(card["image_std"])
    return list(IMAGENET_DEFAULT_MEAN), list(IMAGENET_DEFAULT_STD)
