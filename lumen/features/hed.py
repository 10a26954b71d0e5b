"""Holistically-nested edge detection (Xie and Tu 2015, arXiv:1504.06375) in the variant of ControlNet's annotator."""

import json
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from lumen.core.files import atomic_path, write_json
from lumen.features.pretrained import loading_errors

CONTROLNET_FILE = "ControlNetHED.pth"
CONTENTS = f"config.json and model.safetensors as HED.save writes them, or ControlNet's {CONTROLNET_FILE}"
WIDTHS, CONVS = (64, 128, 256, 512, 512), (2, 2, 3, 3, 3)  # channels and convolutions of each block of VGG-16


class Block(nn.Module):
    """Convolutions at one scale, and a projection to one edge logit per cell."""

    def __init__(self, in_channels: int, width: int, convs: int):
        super().__init__()
        inputs = [in_channels, *[width] * (convs - 1)]
        self.convs = nn.ModuleList(nn.Conv2d(c, width, 3, padding=1) for c in inputs)
        self.projection = nn.Conv2d(width, 1, 1)

    def forward(self, x: Float[Tensor, "b c h w"]) -> tuple[Float[Tensor, "b d h w"], Float[Tensor, "b 1 h w"]]:
        """Return features and edge logits."""
        for conv in self.convs:
            x = F.relu(conv(x))
        return x, self.projection(x)


class HED(nn.Module):
    """Edge network with one output per scale, for pixels in [0, 255].

    Its parameters have the names of those in `ControlNetHED.pth`.

    Args:
        widths: Channels of each block; the resolution is halved from block to block.
        convs: Convolutions of each block.
    """

    def __init__(self, widths: tuple[int, ...] = WIDTHS, convs: tuple[int, ...] = CONVS):
        super().__init__()
        self.config = {"widths": list(widths), "convs": list(convs)}
        self.norm = nn.Parameter(torch.zeros(1, 3, 1, 1))
        self.scales = len(widths)
        for i, (in_channels, width, n) in enumerate(zip((3, *widths), widths, convs, strict=False), 1):
            self.add_module(f"block{i}", Block(in_channels, width, n))

    def side_outputs(self, image: Float[Tensor, "b 3 H W"]) -> list[Float[Tensor, "b 1 h w"]]:
        """Return edge logits at each scale, the finest first; each has half the size of the one before."""
        x, logits = image - self.norm, []
        for i in range(1, self.scales + 1):
            x, side = self.get_submodule(f"block{i}")(F.max_pool2d(x, 2) if i > 1 else x)
            logits.append(side)
        return logits

    def logits(self, image: Float[Tensor, "b 3 H W"]) -> list[Float[Tensor, "b H W"]]:
        """Return the side outputs, all resized to the image."""
        size = image.shape[2:]
        return [F.interpolate(x, size, mode="bilinear", align_corners=False)[:, 0] for x in self.side_outputs(image)]

    def forward(self, image: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b H W"]:
        """Return edge probabilities in [0, 1]: the sigmoid of the mean over scales, as in ControlNet's annotator."""
        return torch.stack(self.logits(image)).mean(0).sigmoid()

    def save(self, directory: Path) -> None:
        """Write config.json and model.safetensors in the precision of the parameters."""
        write_json(directory / "config.json", {"architecture": "hed", **self.config})
        with atomic_path(directory / "model.safetensors") as draft:
            save_file({name: x.contiguous() for name, x in self.state_dict().items()}, draft)


def load_hed(path: str | Path) -> HED:
    """Load a network in float32 and evaluation mode.

    Args:
        path: ControlNet's file, a folder that holds it, or a folder that `HED.save` wrote.

    Raises:
        WeightsMissing: `path` is none of these.
    """
    path = Path(path)
    file = path / CONTROLNET_FILE if path.is_dir() else path
    with loading_errors(path, "hed", CONTENTS):
        if file.is_file():
            network, weights = HED(), torch.load(file, map_location="cpu", weights_only=True)
        else:
            config = json.loads((path / "config.json").read_text(encoding="utf-8"))
            if config.get("architecture") != "hed":
                raise ValueError(f"its config.json is of {config.get('architecture', 'another network')}, not of hed")
            network = HED(tuple(config["widths"]), tuple(config["convs"]))
            weights = load_file(path / "model.safetensors")
        network.load_state_dict(weights)
    return network.float().eval()
