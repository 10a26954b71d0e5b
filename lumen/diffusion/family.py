"""Family of a diffusers pipeline: refusal of all but Stable Diffusion 1 and 2, by the config files of its folder."""

import json
from pathlib import Path
from typing import Any

LATENT_CHANNELS = 4
DEFAULT_SCALE = 0.18215  # of latents; older configs leave it out
# Models whose U-Net takes more than latents, by the number of its channels.
OTHER_INPUTS = {
    3: "a model of pixels",
    5: "a depth-to-image model",
    7: "an upscaler",
    8: "a model of edits (InstructPix2Pix)",
    9: "an inpainting model",
}
# Entries of a U-Net's config that add an input beside latents, timestep and caption.
FURTHER_INPUTS = ("addition_embed_type", "class_embed_type", "num_class_embeds", "encoder_hid_dim",
                  "encoder_hid_dim_type", "time_cond_proj_dim")  # fmt: skip
PREDICTIONS = ("epsilon", "v_prediction")


def verify_family(path: Path) -> None:
    """Check that a folder holds a pipeline that denoises 4 latent channels under the caption of one CLIP.

    Raises:
        ValueError: It holds another pipeline; the message says which.
    """
    pipeline = read_config(path, "model_index.json").get("_class_name", "another model")
    if not (path / "unet").is_dir():
        raise ValueError(_without_unet(path, pipeline))
    if (path / "text_encoder_2").is_dir():
        raise ValueError(f"it holds {pipeline}, which has two text encoders, as SDXL has")
    unet = read_config(path, "unet/config.json")
    _verify_unet(unet, pipeline)
    _verify_text_encoder(read_config(path, "text_encoder/config.json"), unet)
    _verify_schedule(read_config(path, "scheduler/scheduler_config.json"))


def verify_autoencoder(config: dict[str, Any], own: dict[str, Any]) -> None:
    """Check that an autoencoder has the latents of Stable Diffusion.

    Args:
        config: Its config.
        own: Config of the pipeline's own autoencoder; empty if there is none.

    Raises:
        ValueError: It has others.
    """
    name, channels = config.get("_class_name"), config.get("latent_channels", LATENT_CHANNELS)
    if name not in ("AutoencoderKL", "AutoencoderTiny"):
        raise ValueError(f"it holds {name}, not AutoencoderKL or AutoencoderTiny")
    if channels != LATENT_CHANNELS:
        raise ValueError(f"its latents have {channels} channels, not {LATENT_CHANNELS}")
    if config.get("shift_factor") or config.get("latents_mean"):
        raise ValueError("its latents are shifted, as those of Stable Diffusion 3 and Flux are")
    alike = [settings for settings in (config, own) if settings.get("_class_name") == name]
    scales = [settings.get("scaling_factor", DEFAULT_SCALE) for settings in alike]
    if name == "AutoencoderKL" and len(set(scales)) > 1:
        raise ValueError(f"its latents have the scale {scales[0]}, and those of the U-Net {scales[1]}, as with SDXL's")


def _without_unet(path: Path, pipeline: str) -> str:
    if (path / "transformer").is_dir():
        return f"it holds {pipeline}, which denoises by a transformer in place of a U-Net"
    name = read_config(path, "config.json").get("_class_name")
    if name is not None:
        return f"it holds {name} alone; give the folder above it"
    files = sorted(file.name for file in path.iterdir() if file.suffix in (".safetensors", ".ckpt"))
    if files and not any(path.glob("*.json")):
        return f"it holds the single file {files[0]}; give that file"
    return f"it holds {pipeline}, and no folder 'unet'"


def _verify_unet(unet: dict[str, Any], pipeline: str) -> None:
    name, channels = unet.get("_class_name", "UNet2DConditionModel"), unet.get("in_channels", LATENT_CHANNELS)
    if name != "UNet2DConditionModel":
        raise ValueError(f"it holds {pipeline}, whose U-Net is a {name}, not a UNet2DConditionModel")
    if channels != LATENT_CHANNELS:
        kind = OTHER_INPUTS.get(channels, pipeline)
        raise ValueError(f"it holds {kind}, whose U-Net takes {channels} channels, not {LATENT_CHANNELS}")
    if unet.get("out_channels", LATENT_CHANNELS) != LATENT_CHANNELS:
        raise ValueError(f"its U-Net returns {unet['out_channels']} channels, not {LATENT_CHANNELS}")
    if further := [f"{key}={unet[key]}" for key in FURTHER_INPUTS if unet.get(key) is not None]:
        kind = "an SDXL U-Net" if unet.get("addition_embed_type") == "text_time" else pipeline
        raise ValueError(f"it holds {kind}, which takes more than latents and a caption ({further[0]})")


def _verify_text_encoder(text: dict[str, Any], unet: dict[str, Any]) -> None:
    if not text.get("model_type", "clip").startswith("clip"):
        raise ValueError(f"its text encoder is a {text['model_type']}, not a CLIP")
    width = unet.get("cross_attention_dim")
    widths = set(width) if isinstance(width, list) else {width}
    if {"hidden_size"} <= text.keys() and None not in widths and widths != {text["hidden_size"]}:
        raise ValueError(
            f"its U-Net attends to {' or '.join(map(str, sorted(widths)))} channels of a caption, and its text encoder "
            f"has {text['hidden_size']}; the two belong to different models"
        )


def _verify_schedule(scheduler: dict[str, Any]) -> None:
    name, prediction = scheduler.get("_class_name", ""), scheduler.get("prediction_type", "epsilon")
    if name.startswith(("FlowMatch", "EDM")) or scheduler.get("use_flow_sigmas") or prediction == "flow_prediction":
        raise ValueError(f"its scheduler {name} matches flows or denoises without a schedule of betas")
    if prediction not in PREDICTIONS:
        raise ValueError(f"its U-Net predicts '{prediction}', not {' or '.join(PREDICTIONS)}")


def read_config(path: Path, file: str) -> dict[str, Any]:
    """Return the content of a config file; nothing if there is none.

    Raises:
        ValueError: It is no JSON object.
    """
    if not (path / file).is_file():
        return {}
    try:
        content = json.loads((path / file).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is no JSON: {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{file} holds no JSON object")
    return content
