"""Program that computes the neural layout of a photo without LUMEN: text of an export's layout.py."""

import textwrap

from lumen.core.interfaces.script import FeatureScript
from lumen.features.extraction import Normalization

SCALES = {
    "none": "1",
    "global": 'BASIS["variance"][:N].mean().sqrt()',
    "component": 'BASIS["variance"][:N, None, None].sqrt()',
}
PROGRAM = '''\
"""Neural layout of a photo, with {library} alone: layout(x) = Aᵀ (f(x) - m) / s.

f(x) are the features of a cell, m their mean and A the {components} strongest directions of training images, and s is a
scale. As a program it reads photo.jpg and writes layout.npy: python layout.py photo.jpg layout.npy
"""

import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
{imports}
from safetensors.torch import load_file

HERE = Path(__file__).parent
SIZE, N, BASIS = {size}, {components}, load_file(HERE / "basis.safetensors")
{setup}


def features(image):
{features}


@torch.no_grad()
def layout(photo):
    """Return the layout (1, {components}, {size}, {size}) of a PIL image, for image= of a ControlNet pipeline."""
    photo = ImageOps.exif_transpose(photo).convert("RGB").resize((SIZE, SIZE), Image.Resampling.LANCZOS)
    maps = features(torch.from_numpy(np.array(photo)).permute(2, 0, 1)[None] / 127.5 - 1)
    f = torch.cat([F.interpolate(m, maps[-1].shape[-2:], mode="bilinear") for m in maps], dim=1)
    cells = torch.einsum("bchw,cn->bnhw", f - BASIS["mean"][:, None, None], BASIS["axes"][:, :N])
    cells = cells / {scale}
{resize}


if __name__ == "__main__":
    np.save(sys.argv[2], layout(Image.open(sys.argv[1]))[0].numpy())
'''
TO_IMAGE = 'return F.interpolate(cells, SIZE, mode="bilinear", antialias=max(cells.shape[-2:]) > SIZE)'
TO_LATENTS = """\
cells = F.interpolate(cells, {latents}, mode="bilinear", antialias=max(cells.shape[-2:]) > {latents})  # of the latents
return F.interpolate(cells, SIZE, mode="nearest")"""


def normalization_code(normalise: Normalization) -> str:
    """Return a statement that defines MEAN and STD of images in [0, 1]."""
    values = ", ".join(str(tuple(buffer.flatten().tolist())) for buffer in (normalise.mean, normalise.std))
    return f"MEAN, STD = torch.tensor([{values}]).view(2, 3, 1, 1)"


def resize_code(size: tuple[int, int]) -> str:
    """Return a statement that resizes `image`, as `resize_to_multiple` does."""
    return f'image = F.interpolate(image, {size}, mode="bilinear", antialias=True)'


def resize_layout_code(latents: int | None) -> str:
    """Return the end of a function that has the layout as `cells`: it is resized to the side SIZE of the image.

    Args:
        latents: Side of the latents in cells, where the layout enters at their size; None at that of the image.
    """
    return textwrap.indent(TO_IMAGE if latents is None else TO_LATENTS.format(latents=latents), "    ")


def compose_layout_script(script: FeatureScript, components: int, scaling: str, size: int, latents: int | None) -> str:
    """Return the program.

    Args:
        components: Channels of the layout.
        scaling: "none", "global" or "component", as NeuralLayout has it.
        size: Side of the image in pixels.
        latents: Side of the latents in cells, where the layout enters at their size; None at that of the image.
    """
    downloads = "from huggingface_hub import snapshot_download\n" if "snapshot_download" in script.setup else ""
    return PROGRAM.format(
        library=script.library,
        imports=downloads + script.imports,
        setup=script.setup,
        features=textwrap.indent(script.features, "    "),
        components=components,
        scale=SCALES[scaling],
        size=size,
        resize=resize_layout_code(latents),
    )
