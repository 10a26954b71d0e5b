"""Holistically-nested edge detection (Xie & Tu 2015, arXiv:1504.06375), as ControlNet's annotator has it."""

import json
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from lumen.core.files import beside, write_json
from lumen.features.pretrained import reading

FILE = "ControlNetHED.pth"
WIDTHS, CONVS = (64, 128, 256, 512, 512), (2, 2, 3, 3, 3)
"""ControlNet's file, and the channels and convolutions of each block in it; VGG-16's."""


class Block(nn.Module):
    """Convolutions of one scale, and how much of an edge each of its cells shows."""

    def __init__(self, before: int, width: int, convs: int):
        super().__init__()
        inputs = [before, *[width] * (convs - 1)]
        self.convs = nn.ModuleList(nn.Conv2d(c, width, 3, padding=1) for c in inputs)
        self.projection = nn.Conv2d(width, 1, 1)

    def forward(self, x: Float[Tensor, "b c h w"]) -> tuple[Float[Tensor, "b d h w"], Float[Tensor, "b 1 h w"]]:
        for conv in self.convs:
            x = F.relu(conv(x))
        return x, self.projection(x)


class HED(nn.Module):
    """Edges at five scales from pixels in [0, 255]; the names of its weights are those of `ControlNetHED.pth`."""

    def __init__(self, widths: tuple[int, ...] = WIDTHS, convs: tuple[int, ...] = CONVS):
        super().__init__()
        self.config = {"widths": list(widths), "convs": list(convs)}
        self.norm = nn.Parameter(torch.zeros(1, 3, 1, 1))
        self.scales = len(widths)
        for i, (before, width, n) in enumerate(zip((3, *widths), widths, convs, strict=False), 1):
            self.add_module(f"block{i}", Block(before, width, n))

    def sides(self, image: Float[Tensor, "b 3 H W"]) -> list[Float[Tensor, "b 1 h w"]]:
        """Logits of each scale, finest first, every one half as large as the one before."""
        x, found = image - self.norm, []
        for i in range(1, self.scales + 1):
            x, side = self.get_submodule(f"block{i}")(F.max_pool2d(x, 2) if i > 1 else x)
            found.append(side)
        return found

    def logits(self, image: Float[Tensor, "b 3 H W"]) -> list[Float[Tensor, "b H W"]]:
        """`sides`, all at the size of the image."""
        size = image.shape[2:]
        return [F.interpolate(x, size, mode="bilinear", align_corners=False)[:, 0] for x in self.sides(image)]

    def forward(self, image: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b H W"]:
        """How likely each pixel lies on an edge, in [0, 1]: the sigmoid of the mean over scales, as ControlNet's."""
        return torch.stack(self.logits(image)).mean(0).sigmoid()

    def save(self, folder: Path) -> None:
        """config.json and model.safetensors, in the precision it has."""
        write_json(folder / "config.json", {"architecture": "hed", **self.config})
        with beside(folder / "model.safetensors") as draft:
            save_file({name: x.contiguous() for name, x in self.state_dict().items()}, draft)


def load(path: str | Path) -> HED:
    """The network of a folder that `HED.save` wrote, of ControlNet's own file, or of a folder that holds it.

    In single precision, for inference.

    Raises:
        WeightsMissing: there is nothing of the kind at `path`.
    """
    path = Path(path)
    file = path / FILE if path.is_dir() else path
    with reading(path, "edges", f"config.json and model.safetensors as HED.save writes them, or ControlNet's {FILE}"):
        if file.is_file():
            network, weights = HED(), torch.load(file, map_location="cpu", weights_only=True)
        else:
            config = json.loads((path / "config.json").read_text())
            network = HED(tuple(config["widths"]), tuple(config["convs"]))
            weights = load_file(path / "model.safetensors")
        network.load_state_dict(weights)
    return network.float().eval()
