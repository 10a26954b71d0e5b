"""What a run will take before it is started: parameters, FLOPs, memory, cache, disk; nothing is fetched or trained."""

import copy
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from lightning.pytorch import LightningDataModule
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from lumen.config.schema import Config
from lumen.core.errors import DatasetMissing, WeightsMissing
from lumen.core.interfaces import Batch
from lumen.diffusion.activation_reuse import encoded
from lumen.diffusion.stable_diffusion import moments, sampled
from lumen.runs.build import build_data, build_module
from lumen.runs.cost.memory import Live, backward, followed, place
from lumen.training.callbacks import learning
from lumen.training.tasks.layout_to_image import LayoutModule

HALVES = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16, "32-true": None}
CACHED = ("layout", "autoencoder")  # what a cache of latents and layouts spares


@dataclass(frozen=True)
class Cost:
    """What a run takes; bytes, and FLOPs at two for a product and a sum."""

    parameters: dict[str, int]  # by network; the last one learns
    flops: dict[str, int]  # of one training image, by part
    held: dict[str, int]  # bytes that stay on the device
    peaks: dict[str, int]  # most bytes at once, by what is being done
    kept: int  # bytes in the cache, of one look at one image
    looks: int  # at an image that are kept: two where images are mirrored, none where each epoch has windows of its own
    images: int | None  # of the training split; None where the data set is not here
    checkpoint: int  # bytes of one
    precision: str
    uncounted: str | None  # the conditioning, where its networks are not counted

    @property
    def image(self) -> int:
        """FLOPs of an image when everything is computed anew."""
        return sum(self.flops.values())

    @property
    def cached(self) -> int:
        """FLOPs of an image whose latents and layout are kept."""
        return sum(n for part, n in self.flops.items() if part not in CACHED)


def cost(config: Config) -> Cost:
    """The forecast of `lumen show --cost`; on a GPU, unless accelerator=cpu."""
    module, uncounted = outline(config)
    precision = config.precision if config.precision != "auto" else "bf16-mixed"
    if config.accelerator == "cpu" and config.precision == "auto":
        precision = "32-true"
    held, peaks = memory(module, config, HALVES[precision])
    learns = sum(p.numel() for p in learning(module))
    work, values = flops(module, config.size)
    return Cost(
        parameters=_parameters(module),
        flops=work,
        held=held,
        peaks=peaks,
        kept=kept(precision, values),
        looks=_data(config).looks() or 0,
        images=_images(config),
        checkpoint=learns * 4 * (4 if config.ema else 3),
        precision=precision,
        uncounted=uncounted,
    )


def outline(config: Config) -> tuple[LayoutModule, str | None]:
    """The networks of a run without memory, and the name of a conditioning whose own are not among them.

    Of weights in a folder the architecture is read there; of those on a hub it is the one that `size` names.
    """
    data = _data(config)
    config = replace(config, conditioning={k: v for k, v in config.conditioning.items() if k != "basis"})
    with torch.device("meta"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*to a meta parameter")  # which keeps nothing of a file
        try:
            module, uncounted = build_module(config, data), None
        except WeightsMissing:
            uncounted = config.conditioning["name"]
            module = build_module(replace(config, conditioning={"name": "blank"}), data)
    if not config.diffusion.checkpointing:  # the U-Net is held once, and another forecast may have asked for it
        module.diffusion.pipeline.unet.disable_gradient_checkpointing()
    if set(module.conditioning.networks) - {"backbone"}:
        uncounted = config.conditioning["name"]
    return module, uncounted


def flops(module: LayoutModule, size: int) -> tuple[dict[str, int], int]:
    """Of one training image, by part, what `checkpointing` recomputes counted; and the values of its cached looks."""
    module, found = copy.deepcopy(module), {}
    diffusion = module.diffusion
    # Attention by plain products, as all of its kernels count: the one for CPUs is not known to the counter.
    with followed() as (live, _), sdpa_kernel(SDPBackend.MATH):
        _placed(module, live)
        image, t = torch.empty(1, 3, size, size), torch.zeros(1, dtype=torch.long)
        with torch.no_grad():
            latents, found["autoencoder"] = _counted(lambda: moments(diffusion.pipeline.vae, image))
            with encoded(diffusion.pipeline.vae, latents):
                rows, found["layout"] = _counted(lambda: _kept(module, image))
            layout, z = module.conditioning.to_layout(rows), latents[:, : diffusion.pipeline.unet.config.in_channels]
            text, found["text encoder"] = _counted(lambda: diffusion.pipeline.embed([""]))
        with FlopCounterMode(display=False) as counter:
            loss = F.mse_loss(diffusion.denoise(z, t, text, layout), z)
            learns = type(diffusion.controlnet).__name__
            forward, ahead = counter.get_total_flops(), _of(counter, learns)
            backward(loss)
            back = _of(counter, learns) - ahead
            found |= {"unet": forward - ahead, "controlnet": ahead}
            # The U-Net's own passes back lie around the ControlNet's.
            found |= {"unet, backward": counter.get_total_flops() - forward - back, "controlnet, backward": back}
    return found, latents.numel() + rows.numel()


def memory(module: LayoutModule, config: Config, half: torch.dtype | None) -> tuple[dict[str, int], dict[str, int]]:
    """Bytes on the device, of the second optimiser step: what stays there, and the most while each thing is done."""
    module = copy.deepcopy(module)
    peaks: dict[str, int] = {}
    with followed(half) as (live, mixed):
        held = _placed(module, live)
        weights = learning(module)
        bytes_of = sum(p.nbytes for p in weights)
        for p in weights:
            p.grad = torch.empty_like(p)
        optimizer = module.configure_optimizers()["optimizer"]
        for group in optimizer.param_groups:  # what PyTorch takes by itself, for tensors on a GPU
            group["foreach"] = not group.get("fused") and config.accelerator != "cpu"
        optimizer.step()
        copies = {"gradients": bytes_of, "AdamW": 2 * bytes_of}
        copies |= {"average": bytes_of} if config.ema else {}
        copies |= {"gradients that are sent": bytes_of} if config.devices * config.nodes > 1 else {}
        unseen = sum(copies.values()) - 3 * bytes_of  # what is held besides, but was not made here
        peaks["update"] = live.lap() + unseen
        image = torch.empty(config.batch, 3, config.size, config.size)
        _step(module, image, config.accumulate, live, mixed, peaks, half, unseen)
        _picture(module, image[:1], config, live, peaks, half, unseen)
    return held | copies, peaks


def _step(module, image, accumulate, live: Live, mixed, peaks, half, unseen) -> None:
    """A micro-batch as in LayoutModule.training_step: the gradients of the last one are there until it goes back."""
    diffusion, vae, b = module.diffusion, module.diffusion.pipeline.vae, len(image)
    with torch.autocast("cpu", dtype=half, enabled=half is not None):
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            known = moments(vae, image)
        peaks["latents"] = live.lap() + unseen
        with encoded(vae, known):
            layout = _layout(module, image)
        peaks["layout"] = live.lap() + unseen
        with torch.no_grad():
            z, text = sampled(vae, known), diffusion.pipeline.embed([""] * b)
        predicted = diffusion.denoise(z, torch.zeros(b, dtype=torch.long), text, layout)
        loss = F.mse_loss(predicted.float(), z)
    mixed.kept = None
    peaks["forward"] = live.lap() + unseen
    if accumulate == 1:
        module.zero_grad(set_to_none=True)
    backward(loss)
    peaks["backward"] = live.lap() + unseen


def _picture(module, image, config: Config, live: Live, peaks, half, unseen) -> None:
    """Four guided samples of validation images, decoded one by one, as callbacks.Pictures draws them."""
    with torch.no_grad(), torch.autocast("cpu", dtype=half, enabled=half is not None):
        diffusion, twice = module.diffusion, 1 + (config.sampling.guidance != 1)
        layout = torch.cat([_layout(module, image.expand(4, -1, -1, -1))] * twice)
        b = len(layout)
        text = diffusion.pipeline.embed([""] * b)
        cells = config.size // diffusion.pipeline.downscale
        z = torch.empty(1, diffusion.pipeline.unet.config.in_channels, cells, cells)
        diffusion.denoise(z.expand(b, -1, -1, -1), torch.zeros(b, dtype=torch.long), text, layout)
        diffusion.decoded(z)
    peaks["picture"] = live.lap() + unseen


def kept(precision: str, values: int) -> int:
    """Bytes that a cache keeps of one look at one image: mean and log variance of its latents, and its layout."""
    return (4 if precision == "32-true" else 2) * values


def _layout(module: LayoutModule, image: Float[Tensor, "b 3 H W"]) -> Tensor:
    return module.conditioning.to_layout(_kept(module, image))


def _kept(module: LayoutModule, image: Float[Tensor, "b 3 H W"]) -> Tensor:
    """What a cache holds of layouts; of one that is not of a backbone's features, as large as the image."""
    conditioning = module.conditioning
    if "backbone" not in conditioning.networks:
        return image.new_empty(len(image), conditioning.channels, *image.shape[-2:])
    return conditioning.encode(Batch(image=image, caption=[""] * len(image), id=["image"] * len(image)))


def _networks(module: LayoutModule) -> dict[str, nn.Module]:
    return module.diffusion.networks | module.conditioning.networks | {"controlnet": module}


def _parameters(module: LayoutModule) -> dict[str, int]:
    """Of each network; those that two share count for the first."""
    seen: set[Tensor] = set()
    counts = {}
    for name, network in _networks(module).items():
        own = set(network.parameters()) - seen
        seen |= own
        counts[name] = sum(p.numel() for p in own)
    return counts


def _placed(module: LayoutModule, live: Live) -> dict[str, int]:
    """Puts all networks where tensors are followed; the bytes of each, of shared ones once."""
    held, placed = {}, set()
    for name, network in _networks(module).items():
        before = live.now
        place(network, placed)
        held[name] = live.now - before
    return held


def _counted(work: Callable[[], Any]) -> tuple[Any, int]:
    with FlopCounterMode(display=False) as counter:
        done = work()
    return done, counter.get_total_flops()


def _of(counter: FlopCounterMode, network: str) -> int:
    return sum(counter.get_flop_counts().get(network, {}).values())


def _images(config: Config) -> int | None:
    """How many training images there are, if the data set is here."""
    try:
        return len(_data(config).records("train"))
    except DatasetMissing:
        return None


def _data(config: Config) -> LightningDataModule:
    """The data set, which need not be there: its folder is looked at when records are asked for."""
    nowhere = {"root": ""} if config.data.get("root", "") is None else {}
    return build_data(replace(config, data=config.data | nowhere))
