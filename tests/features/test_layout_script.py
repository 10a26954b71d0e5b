"""Programs of an export that make layouts by one library alone, against LUMEN's own layouts."""

import runpy

import numpy as np
import pytest
import torch
from PIL import Image

from lumen.conditionings.canny import Canny
from lumen.conditionings.neural_layout import NeuralLayout
from lumen.core.interfaces import Batch
from lumen.core.registry import backbones
from lumen.core.resize import resize
from lumen.data.readers import read_photo
from lumen.runs.photos import to_batch

SIZE, LATENTS = 48, 12
ARGUMENTS = {  # by name, with the number of components
    "dino": ({"facet": "key"}, 4),
    "dinov2": ({"facet": "token", "layer": [1, -1]}, 3),
    "clip": ({"facet": "value"}, 20),
    "sd": ({}, 1),
}


def fitted(name: str, scale: str = "global", **arguments) -> NeuralLayout:
    components = ARGUMENTS[name][1]
    backbone = backbones.build(name, weights="scenes", **(ARGUMENTS[name][0] | arguments))
    conditioning = NeuralLayout(components=components, vectors=64, scale=scale, backbone=backbone)
    image = torch.rand(4, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0)) * 2 - 1
    conditioning.fit([Batch(image=image, caption=[""] * 4, id=list("abcd"))], 4, 0, "random images")
    return conditioning


@pytest.mark.parametrize(("name", "scale", "latents"), [
    ("dino", "global", LATENTS), ("dinov2", "none", None), ("clip", "component", LATENTS), ("sd", "global", None),
])  # fmt: skip
def test_layout_script_equals_the_conditioning(tmp_path, name, scale, latents):
    photo = tmp_path / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8)).save(photo)
    conditioning = fitted(name, scale)
    conditioning.save(tmp_path)
    program = conditioning.script(SIZE, latents, lambda source, _: repr(source))
    (tmp_path / "layout.py").write_text(program)
    layout = runpy.run_path(str(tmp_path / "layout.py"))["layout"](Image.open(photo))
    own = conditioning(to_batch(read_photo(photo), photo, SIZE, "", "stretch"))
    own = resize(own, (latents or SIZE,) * 2)
    cells = layout[..., :: SIZE // latents, :: SIZE // latents] if latents else layout
    assert layout.shape == (1, conditioning.channels, SIZE, SIZE)
    assert torch.allclose(cells, own, rtol=1e-5, atol=1e-5 * own.abs().max().item())
    if latents:  # every cell has one value
        assert torch.equal(cells.repeat_interleave(SIZE // latents, 2).repeat_interleave(SIZE // latents, 3), layout)
    lines = program.partition("HERE = ")[2].splitlines()
    assert (
        len([line for line in lines if line.strip()]) <= 30
        and "import lumen" not in program
        and "from lumen" not in program
    )


@pytest.mark.parametrize("latents", [LATENTS, None])
def test_layout_script_of_canny_finds_the_same_edges(tmp_path, latents):
    photo = tmp_path / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8)).save(photo)
    conditioning = Canny(low=300, high=600)
    (tmp_path / "layout.py").write_text(conditioning.script(SIZE, latents, lambda source, _: repr(source)))
    layout = runpy.run_path(str(tmp_path / "layout.py"))["layout"](Image.open(photo))
    own = conditioning(to_batch(read_photo(photo), photo, SIZE, "", "stretch"))
    cells = layout[..., :: SIZE // LATENTS, :: SIZE // LATENTS] if latents else layout
    assert 0 < own.mean() < 1 and layout.shape == (1, 1, SIZE, SIZE)
    assert torch.equal(cells, resize(own, (latents or SIZE,) * 2))


def test_layout_script_is_missing_without_weights(backbone):
    assert NeuralLayout(components=2, backbone=backbone).script(SIZE, None, lambda source, _: repr(source)) is None
