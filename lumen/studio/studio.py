"""Studio without its page: the runs that are open, the photos, and what a session asks of both."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from threading import Lock

import torch
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor

from lumen.core.errors import BadConfig
from lumen.core.interfaces import Batch
from lumen.core.visualize import to_uint8
from lumen.runs.photos import load_photo
from lumen.runs.shipped import find_run
from lumen.studio.canvas import Canvas
from lumen.studio.folder import StudioFolder
from lumen.studio.loaded_run import PICTURE_PIXELS, LoadedRun
from lumen.studio.settings import NUM_SAMPLES, Settings

NO_PHOTO = "there is no photo yet: upload one, or choose an image."


class Studio:
    """Runs and files that all sessions share.

    Args:
        names: Run directories, or "scenes"; the first one is shown first.
        flags: Overrides of their configs, such as "accelerator=cpu".
        directory: Folder for photos and layouts, which `close` removes.
    """

    def __init__(self, names: list[str], flags: list[str], directory: Path):
        self.folder, self.flags, self.lock = StudioFolder(directory), flags, Lock()
        self.runs: dict[str, LoadedRun] = {}
        for name in names:
            self.add(name)
        self.address = ""  # of the page, once it is served
        self.masks: dict[tuple[str, str], Int[Tensor, "1 H W"]] = {}  # by data set and name of the photo

    def add(self, name: str) -> None:
        """Add a run.

        Raises:
            Mistake: It is no run whose layouts can be edited.
        """
        if name not in self.runs:
            run = LoadedRun(name, find_run(name), self.flags, self.lock)
            run.verify()
            self.runs[name] = run

    def run(self, name: str) -> LoadedRun:
        """Return a run.

        Raises:
            BadConfig: The studio was not started with it.
        """
        if name not in self.runs:
            raise BadConfig(f"the studio has no run {name[:80]!r}; it has: {', '.join(self.runs)}.")
        return self.runs[name]

    # ---- photos

    def open_held_out(self, name: str, image_id: str) -> tuple[str, str]:
        """Store an image of a run's data set as a photo. Return the photo's name, and the image's caption."""
        run = self.run(name)
        batch = run.find_image(image_id)
        photo = self.folder.add_image(batch.image[0])
        if batch.mask is not None:
            self.masks[run.config.data["name"], photo] = batch.mask
        return photo, batch.caption[0]

    def photo(self, name: str, settings: Settings) -> Batch:
        """Return the photo of some settings as a run takes it.

        Raises:
            BadConfig: There is no photo yet.
        """
        if not settings.photo:
            raise BadConfig(NO_PHOTO)
        path, config = self.folder.find(settings.photo), self.run(name).config
        batch = load_photo(path, config.size, settings.prompt, settings.fit)
        mask = self.masks.get((config.data["name"], settings.photo))  # another data set has other classes
        fits = mask is not None and mask.shape[-2:] == batch.image.shape[-2:]
        return replace(batch, id=[f"{path.stem}-{settings.fit}"], mask=mask if fits else None)

    def show_photo(self, name: str, settings: Settings) -> Image.Image:
        """Return the photo as a run takes it, enlarged to the size of the picture of a layout."""
        picture = to_picture(self.photo(name, settings).image[0])
        factor = max(1, round(PICTURE_PIXELS / max(picture.size)))
        return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)

    # ---- layouts

    def canvas(self, name: str, settings: Settings) -> Canvas:
        """Return a canvas with the layout of some settings."""
        own = Canvas.of_layout(self.run(name).layout(self.photo(name, settings)))
        return own.load(self.folder.load_layout(settings.layout), settings.layout) if settings.layout else own

    def store(self, canvas: Canvas, settings: Settings) -> Settings:
        """Return settings with the file of the canvas's layout, unless it is the photo's own."""
        is_own = len(canvas.history) == 1 and bool((canvas.gains == 1).all())
        return replace(settings, layout="" if is_own else self.folder.add_layout(canvas.layout))

    # ---- samples

    def stream(self, name: str, settings: Settings, count: int = NUM_SAMPLES) -> Iterator[list[Image.Image]]:
        """Yield pictures of the samples of some settings, as they are generated."""
        layout = self.folder.load_layout(settings.layout) if settings.layout else None
        for samples in self.run(name).stream(self.photo(name, settings), layout, settings, count):
            blank = [torch.ones_like(samples[0])] * (count - len(samples))  # so that pictures stay in their places
            yield [to_picture(sample) for sample in [*samples, *blank]]

    def compare(self, name: str, settings: Settings, by_caption: bool = False) -> tuple[Image.Image, dict[str, float]]:
        """Return the first of two samples by a run's own layout of the photo, and the scores of both.

        Args:
            by_caption: Whether they follow the caption alone.
        """
        run, photo = self.run(name), self.photo(name, settings)
        options = {"row": "text"} if by_caption else {}
        with run.lock:
            samples = torch.stack(run.sample(photo, None, settings, 2, **options), dim=1)
        return to_picture(samples[0, 0]), run.score(photo, samples)

    def close(self) -> None:
        """Remove all files."""
        self.folder.remove()


def to_picture(image: Float[Tensor, "3 H W"]) -> Image.Image:
    """Return an image in [-1, 1] as a picture of bytes."""
    return Image.fromarray(to_uint8(image).numpy())
