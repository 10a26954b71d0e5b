"""Recipes that trained the small networks of the offline world: `python -m lumen.scenes.recipes NAME`."""

NAMES = (
    "clip",
    "controlnet",
    "depth",
    "dino",
    "dinov2",
    "features",
    "hed",
    "midas",
    "oasis",
    "segmenter",
    "unet",
    "vae",
    "vqa",
)
"""Recipes; each is a module of this package with `train` and `evaluate`."""


def weights_subdirectory(name: str) -> str:
    """Return the directory of a recipe's network among the weights; autoencoder and U-Net share one pipeline."""
    return "sd" if name in ("unet", "vae") else name
