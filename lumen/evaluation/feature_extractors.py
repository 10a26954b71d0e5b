"""Feature extractors of FID, KID and LPIPS: the published Inception-v3, or a network of timm."""

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
from lumen.core.paths import user_path
from lumen.features.pretrained import loading_errors, resolve_weights

INCEPTION_SIZE = (299, 299)  # px


def build_feature_extractor(network: str, resize: str) -> nn.Module:
    """Return a network that maps an image to one vector of `channels` numbers.

    Args:
        network: "inception", "scenes" or a timm folder.
        resize: Resizing for Inception, as `InceptionFeatures` takes it.
    """
    return InceptionFeatures(resize) if network == "inception" else PooledFeatures(network)


def key_suffix(network: str) -> str:
    """Return what a network other than the published one adds to a metric's key: -scenes, or the folder's name."""
    return "-" + re.sub(r"[^\w.-]", "_", user_path(network).resolve().name)


class InceptionFeatures(nn.Module):
    """Pooled features of the Inception-v3 that FID was published with, as torch-fidelity has it.

    Args:
        resize: "clean" is bicubic as in PIL, with a filter as wide as the reduction, clamped and not rounded
            (Parmar et al. 2022, arXiv:2104.11222); "original" is the bilinear one of TensorFlow 1, which skips pixels.

    Raises:
        WeightsMissing: The weights are not in torch's cache and could not be fetched.
    """

    channels = 2048

    def __init__(self, resize: str):
        super().__init__()
        # Imported here because it imports half of torchvision.
        from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3, FeatureExtractorInceptionV3

        directory, file = Path(torch.hub.get_dir(), "checkpoints"), BytesIO()
        with loading_errors(directory, "inception", f"{Path(URL_INCEPTION_V3).name}, which {URL_INCEPTION_V3} gives"):
            weights = torch.hub.load_state_dict_from_url(
                URL_INCEPTION_V3, map_location="cpu", progress=False, check_hash=True, weights_only=True
            )
            # torch-fidelity unpickles its file without checks, so it receives the verified weights, saved again.
            torch.save(weights, file)
            file.seek(0)
            network = FeatureExtractorInceptionV3("inception", ["2048"], file)
        self.layers = nn.Sequential(*(layer for name, layer in network.named_children() if name != "fc"))
        self.resize = {"clean": _resize_clean, "original": _resize_original}[resize]

    def forward(self, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b c"]:
        return self.layers((self.resize(_quantize(images)) - 128) / 128).flatten(1)


class PooledFeatures(nn.Module):
    """Pooled features of a timm network, which receives images in the size and range of its model card.

    Args:
        weights: "scenes", a timm folder or a hub id.
    """

    def __init__(self, weights: str):
        super().__init__()
        self.net, card = load_timm_network(weights, num_classes=0)
        self.scaling_layer = ScalingLayer(card)
        self.channels, self.size, self.mode = self.net.head_hidden_size, card["input_size"][1:], card["interpolation"]

    def forward(self, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b c"]:
        image = F.interpolate(_quantize(images) / 127.5 - 1, self.size, mode=self.mode, antialias=True)
        return self.net(self.scaling_layer(image))


class ScalingLayer(nn.Module):
    """Map from [-1, 1] to the input range of a timm network.

    Args:
        card: Mean and standard deviation per channel, of images in [0, 1].
    """

    def __init__(self, card: dict[str, Any]):
        super().__init__()
        mean, std = (torch.tensor(card[name])[:, None, None] for name in ("mean", "std"))
        self.register_buffer("shift", 2 * mean - 1)
        self.register_buffer("scale", 2 * std)

    def forward(self, image: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b 3 H W"]:
        return (image - self.shift) / self.scale


def load_timm_network(weights: str, **options: Any) -> tuple[nn.Module, dict[str, Any]]:
    """Load a timm network and its model card.

    Args:
        weights: "scenes", a timm folder or a hub id.
        options: Arguments of `timm.create_model`.

    Raises:
        WeightsMissing: The weights do not exist or cannot be read.
    """
    path = resolve_weights(weights, "features", None, None, ["config.json", "model.safetensors"])
    if path is None:
        raise WeightsMissing(
            "an untrained feature extractor cannot score images; give the published network, a timm folder, or scenes."
        )
    with loading_errors(path, "features", "config.json and model.safetensors of a timm network"):
        network = timm.create_model(f"local-dir:{path}", pretrained=True, **options)
    return network, resolve_model_data_config(network)


def _quantize(images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b 3 H W"]:
    """Return images in [-1, 1] as the integers 0 to 255 that a PNG holds, in floating point."""
    return ((images + 1) * 127.5).round().clamp(0, 255)


def _resize_clean(image: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b 3 299 299"]:
    return F.interpolate(image, INCEPTION_SIZE, mode="bicubic", antialias=True).clamp(0, 255)


def _resize_original(image: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b 3 299 299"]:
    from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x

    return interpolate_bilinear_2d_like_tensorflow1x(image, INCEPTION_SIZE, align_corners=False)
