"""Networks whose features stand for an image: the published Inception, or one of timm, which makes another measure."""

import re
from io import BytesIO
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F
from jaxtyping import Float
from timm.data import resolve_model_data_config
from torch import Tensor, nn

from lumen.core.errors import WeightsMissing
from lumen.features.pretrained import folder, reading

SIZE = (299, 299)  # px, what Inception takes


def features(network: str, resize: str) -> nn.Module:
    """One vector of `width` numbers per image, by "inception", "scenes" or a timm folder."""
    return Inception(resize) if network == "inception" else Pooled(network)


def suffix(network: str) -> str:
    """What another network than the published one adds to the name of a measure: -scenes, or the folder's name."""
    return "-" + re.sub(r"[^\w.-]", "_", Path(network).expanduser().resolve().name)


class Inception(nn.Module):
    """The 2048 pooled features of the Inception-v3 that the FID was published with, by torch-fidelity.

    Args:
        resize: "clean" is bicubic as PIL's, with a filter as wide as the reduction, neither rounded nor out of range
            (Parmar et al. 2022, arXiv:2104.11222); "original" the bilinear one of TensorFlow 1, which skips pixels.

    Raises:
        WeightsMissing: they are not in torch's cache and could not be fetched.
    """

    width = 2048

    def __init__(self, resize: str):
        super().__init__()
        # here, for it imports half of torchvision
        from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3, FeatureExtractorInceptionV3

        place, file = Path(torch.hub.get_dir(), "checkpoints"), BytesIO()
        with reading(place, "inception", f"{Path(URL_INCEPTION_V3).name}, which {URL_INCEPTION_V3} gives"):
            weights = torch.hub.load_state_dict_from_url(
                URL_INCEPTION_V3, map_location="cpu", progress=False, check_hash=True, weights_only=True
            )
            # It unpickles whatever it is given, so it is given what was written here.
            torch.save(weights, file)
            file.seek(0)
            network = FeatureExtractorInceptionV3("inception", ["2048"], file)
        self.layers = nn.Sequential(*(part for name, part in network.named_children() if name != "fc"))
        self.resized = {"clean": _clean, "original": _original}[resize]

    def forward(self, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b c"]:
        return self.layers((self.resized(_levels(images)) - 128) / 128).flatten(1)


class Pooled(nn.Module):
    """The pooled features of a timm network, which sees images in the size and range of its own card."""

    def __init__(self, weights: str):
        super().__init__()
        self.net, card = timm_network(weights, num_classes=0)
        self.scaling_layer = Scaling(card)
        self.width, self.size, self.mode = self.net.head_hidden_size, card["input_size"][1:], card["interpolation"]

    def forward(self, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b c"]:
        image = F.interpolate(_levels(images) / 127.5 - 1, self.size, mode=self.mode, antialias=True)
        return self.net(self.scaling_layer(image))


class Scaling(nn.Module):
    """From [-1, 1] to the range that a network of timm was trained in."""

    def __init__(self, card: dict[str, Any]):
        super().__init__()
        mean, std = (torch.tensor(card[name])[:, None, None] for name in ("mean", "std"))
        self.register_buffer("shift", 2 * mean - 1)
        self.register_buffer("scale", 2 * std)

    def forward(self, image: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b 3 H W"]:
        return (image - self.shift) / self.scale


def timm_network(weights: str, **how: Any) -> tuple[nn.Module, dict[str, Any]]:
    """A network of a timm folder, of a hub id or of scenes, and its card.

    Raises:
        WeightsMissing: the weights are nowhere, or cannot be read.
    """
    path = folder(weights, "features", None, None, ["config.json", "model.safetensors"])
    if path is None:
        raise WeightsMissing(
            "untrained features can judge nothing; give the published network, a timm folder, or scenes."
        )
    with reading(path, "features", "config.json and model.safetensors of a timm network"):
        network = timm.create_model(f"local-dir:{path}", pretrained=True, **how)
    return network, resolve_model_data_config(network)


def _levels(images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b 3 H W"]:
    """Images in [-1, 1] as the whole numbers 0 to 255 that a file would hold."""
    return ((images + 1) * 127.5).round().clamp(0, 255)


def _clean(image: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b 3 299 299"]:
    return F.interpolate(image, SIZE, mode="bicubic", antialias=True).clamp(0, 255)


def _original(image: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b 3 299 299"]:
    from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x

    return interpolate_bilinear_2d_like_tensorflow1x(image, SIZE, align_corners=False)
