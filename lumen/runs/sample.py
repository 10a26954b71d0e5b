"""Pictures on demand: the layout of any photo, and samples of a trained run with that layout."""

from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from lumen.config.schema import Config
from lumen.core.files import beside
from lumen.core.interfaces import Batch, Conditioning
from lumen.core.random import stable_seed
from lumen.core.visualize import components, grid, stacked
from lumen.data.readers import picture
from lumen.runs.build import build_conditioning, build_data, build_module, device
from lumen.runs.evaluate import restore, trained


def photo(path: Path, size: int) -> Batch:
    """A photo as a batch of one, resized to a square as in training."""
    image = picture(path).resize((size, size), Image.Resampling.LANCZOS)
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 127.5 - 1
    return Batch(image=pixels, caption=[""], id=[path.stem])


def draw_layouts(paths: list[Path], config: Config, out: Path) -> None:
    """A sheet of photos with their layouts; axes are fitted on these photos unless a basis is given."""
    conditioning = build_conditioning(config, build_data(config)).to(device(config))
    batches = [photo(path, config.size).to(device(config)) for path in paths]
    if not conditioning.fitted:
        conditioning.vectors = "all"
        conditioning.fit(batches, len(batches), config.seed, "the photos shown")
    sheets = [sheet for batch in batches for sheet in _sheets(conditioning, batch)]
    with beside(out) as draft:
        stacked(sheets).save(draft, format="PNG")


def _sheets(conditioning: Conditioning, batch: Batch) -> list[Image.Image]:
    """A photo beside its layout, and where that has components, each of them."""
    layout = conditioning(batch)
    if not hasattr(conditioning, "basis"):
        return [grid(batch.image, conditioning.visualize(layout), [], [""])]
    share = (conditioning.variance / conditioning.variance.sum()).tolist()
    return components(batch.image[0], layout[0], share)


def draw_samples(place: Path, config: Config, path: Path, prompt: str, out: Path) -> None:
    """Samples of a trained run with the layout of a photo, under a prompt."""
    start = trained(place, config)
    batch = photo(path, config.size)
    module = build_module(config, build_data(config))
    restore(module, start)
    module.to(device(config))
    batch = batch.to(module.device)
    sampling = asdict(config.sampling)
    count = sampling.pop("images")
    with torch.no_grad():
        layout = module.conditioning(batch)
        seeds = [stable_seed(config.seed, "sample", k) for k in range(count)]
        size = tuple(batch.image.shape[-2:])
        samples = [module.diffusion.sample([prompt], layout, [seed], size, **sampling) for seed in seeds]
    with beside(out) as draft:
        grid(batch.image, module.conditioning.visualize(layout), samples, [prompt]).save(draft, format="PNG")
