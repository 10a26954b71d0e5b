"""How the small networks of the offline world are trained, `python -m lumen.scenes.recipes NAME`, and their goals."""

NAMES = ("clip", "depth", "dino", "dinov2", "edges", "features", "midas", "segmenter", "unet", "vae", "vqa")
"""Every recipe is a module of this package with `train` and `measure`."""


def home(name: str) -> str:
    """The folder of a recipe's network among the weights; the autoencoder and the U-Net are of one pipeline."""
    return "sd" if name in ("unet", "vae") else name
