"""Photos of users: read, and made square as the generator needs them."""

from pathlib import Path

from PIL import Image

from lumen.config.schema import Config
from lumen.core.interfaces import Batch
from lumen.core.paths import user_path
from lumen.data.readers import read_photo
from lumen.data.transforms import FITS, Fit, to_tensor

EFFECTS: dict[Fit, str] = {
    "stretch": "stretched to a square; fit=crop takes its middle, and fit=pad adds grey bars",
    "crop": "cropped to the square in its middle",
    "pad": "given grey bars to make it square",
}


def load_photo(path: Path, size: int, prompt: str = "", fit: Fit = "stretch") -> Batch:
    """Return a photo as a batch of one, made square; by default it is stretched, as in training."""
    return to_batch(read_photo(path), path, size, prompt, fit)


def load_validation_photos(config: Config) -> list[Batch]:
    """Return the photos of a config, each with its prompt as a batch of one.

    Raises:
        BadSample: A photo cannot be read.
    """
    pairs = zip(config.validation_images, config.validation_prompts, strict=True)
    return [load_photo(user_path(path), config.size, prompt) for path, prompt in pairs]


def to_batch(photo: Image.Image, path: Path, size: int, prompt: str, fit: Fit) -> Batch:
    """Return a photo that was read from a path as a batch of one."""
    pixels = to_tensor(FITS[fit](photo.size, size).apply(photo))
    return Batch(image=pixels[None].float() / 127.5 - 1, caption=[prompt], id=[path.stem])


def describe_fit(photo: Image.Image, path: Path, fit: Fit) -> str | None:
    """Return a sentence about how a photo is made square; None if it is."""
    if photo.width == photo.height:
        return None
    return f"{path.name} has {photo.width} x {photo.height} px and is {EFFECTS[fit]}."
