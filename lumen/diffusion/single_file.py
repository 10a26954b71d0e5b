"""Stable Diffusion 1 in a single .safetensors file, under the names of its first code (CompVis)."""

import json
import os
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from diffusers import StableDiffusionPipeline
from safetensors import safe_open
from transformers import CLIPTokenizer

from lumen.core.errors import WeightsMissing
from lumen.core.paths import user_path
from lumen.diffusion.family import LATENT_CHANNELS, OTHER_INPUTS
from lumen.features.pretrained import FILE_SUFFIXES

UNET = "model.diffusion_model"
INPUT, CAPTION = f"{UNET}.input_blocks.0.0.weight", f"{UNET}.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
COMPONENTS = {
    "unet": ("diffusers", "UNet2DConditionModel"),
    "vae": ("diffusers", "AutoencoderKL"),
    "text_encoder": ("transformers", "CLIPTextModel"),
}
OTHERS = {"tokenizer": ("transformers", "CLIPTokenizer"), "scheduler": ("diffusers", "DDPMScheduler")}


def find_single_file(weights: str) -> Path | None:
    """Return the .safetensors file that weights name; None if they name no file.

    Raises:
        WeightsMissing: They name a file of another form.
    """
    path = user_path(weights)
    if path.suffix.lower() not in FILE_SUFFIXES or not os.path.isfile(path):
        return None
    if path.suffix.lower() == ".safetensors":
        return path
    raise WeightsMissing(
        f"the weights of sd cannot be read from '{weights}', a file in which code could run or that diffusers does not "
        f"read; python -c \"from diffusers import StableDiffusionPipeline as P; P.from_single_file('{weights}')"
        ".save_pretrained('DIR')\" converts a checkpoint to a folder, then give weights=DIR."
    )


def opener(source: str) -> str:
    """Return the method by which a pipeline of diffusers opens weights: a folder, an id on the hub, or a file."""
    return "from_single_file" if os.path.isfile(source) else "from_pretrained"


def read_size(path: Path, sizes: dict[int, str]) -> str:
    """Return the size of a single file's architecture from the shapes in its header.

    Args:
        sizes: Names of sizes by the channels of a caption's embedding.

    Raises:
        ValueError: The file holds another model.
    """
    with safe_open(path, "pt") as file:
        names = set(file.keys())
        if not {INPUT, CAPTION} <= names:
            kind = (
                "SDXL" if any(name.startswith("conditioner.embedders.") for name in names) else "no Stable Diffusion 1"
            )
            raise ValueError(f"the file holds {kind}: it has no {CAPTION}")
        channels, width = file.get_slice(INPUT).get_shape()[1], file.get_slice(CAPTION).get_shape()[1]
    if channels != LATENT_CHANNELS:
        kind = OTHER_INPUTS.get(channels, "another model")
        raise ValueError(f"the file holds {kind}, whose U-Net takes {channels} channels, not {LATENT_CHANNELS}")
    if width not in sizes:
        raise ValueError(
            f"its captions have {width} channels, and those of Stable Diffusion 1 have 768; of Stable Diffusion 2 "
            "only a diffusers folder says whether the U-Net predicts noise or velocity"
        )
    return sizes[width]


def load_single_file(path: Path, architecture: dict[str, Any]) -> dict[str, Any]:
    """Return the components of a single file in float32.

    Args:
        architecture: Components whose configs are those of the file, with the noise schedule and, for a vocabulary
            smaller than CLIP's, the tokenizer.
    """
    tokenizer = _tokenizer(architecture)
    with TemporaryDirectory() as folder:
        _save_configs(architecture, Path(folder), COMPONENTS)
        pipeline = StableDiffusionPipeline.from_single_file(
            str(path),
            config=folder,
            local_files_only=True,
            tokenizer=tokenizer,
            scheduler=architecture["scheduler"],
            safety_checker=None,
            feature_extractor=None,
        )
    networks = {name: getattr(pipeline, name).float() for name in COMPONENTS}
    return {**networks, "tokenizer": tokenizer, "scheduler": architecture["scheduler"]}


def save_configs(architecture: dict[str, Any], folder: Path) -> None:
    """Write the folder that diffusers opens a single file with, as `config`, in place of one on the hub.

    Args:
        architecture: That of `load_single_file`.
    """
    _save_configs(architecture, folder, COMPONENTS | OTHERS)
    _tokenizer(architecture).save_pretrained(folder / "tokenizer")
    schedule = architecture["scheduler"].config
    # A value that nobody has set is left out: another sampler has a default of its own in its place.
    given = {key: value for key, value in schedule.items() if key not in schedule["_use_default_values"]}
    given = {key: value for key, value in given.items() if not key.startswith("_")} | {"_class_name": "DDPMScheduler"}
    (folder / "scheduler").mkdir(exist_ok=True)
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(given), encoding="utf-8")


def _save_configs(architecture: dict[str, Any], folder: Path, components: dict[str, tuple[str, str]]) -> None:
    for name in ("unet", "vae"):
        architecture[name].save_config(folder / name)
    architecture["text_encoder"].config.save_pretrained(folder / "text_encoder")
    index = {"_class_name": "StableDiffusionPipeline", **components}
    (folder / "model_index.json").write_text(json.dumps(index), encoding="utf-8")


def _tokenizer(architecture: dict[str, Any]) -> CLIPTokenizer:
    """Return CLIP's tokenizer, or that of a smaller vocabulary."""
    own = architecture["tokenizer"]
    return clip_tokenizer() if architecture["text_encoder"].config.vocab_size > len(own) else own


def clip_tokenizer() -> CLIPTokenizer:
    """Return the tokenizer of OpenAI's CLIP, whose vocabulary open_clip holds."""
    from open_clip import SimpleTokenizer  # takes 2 s, and folders have a tokenizer of their own

    original = SimpleTokenizer()
    marks = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
    vocabulary = {marks.get(token, token): index for token, index in original.encoder.items()}
    return CLIPTokenizer(vocab=vocabulary, merges=list(original.bpe_ranks), model_max_length=77)
