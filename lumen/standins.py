"""Stand-ins for parts of a frozen network whose work would be done again for nothing."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn


class Known(nn.Module):
    """Gives what a part has answered to the only input that it will be given."""

    def __init__(self, answer: Float[Tensor, "b ..."]):
        super().__init__()
        self.answer = answer

    def forward(self, given: Float[Tensor, "B ..."]) -> Float[Tensor, "B ..."]:
        return self.answer.expand(len(given), *self.answer.shape[1:])


class Once(nn.Module):
    """Runs a part on half of a batch whose halves are the same, and gives its answer for both."""

    def __init__(self, part: nn.Module):
        super().__init__()
        self.part = part

    def forward(self, given: Float[Tensor, "b ..."], **more: Any) -> Float[Tensor, "b ..."]:
        return torch.cat([self.part(given[: len(given) // 2], **more)] * 2)


@contextmanager
def standing(network: nn.Module, parts: dict[str, nn.Module]) -> Iterator[None]:
    """Inside, each of `parts` stands where the network's own part of this name is; nothing else of it changes.

    The library's own forward runs, so its numbers stay its own; the parts come back whatever happens.
    """
    places = [network.get_submodule(name.rpartition(".")[0]) for name in parts]
    names = [name.rpartition(".")[2] for name in parts]
    own = [place.get_submodule(name) for place, name in zip(places, names, strict=True)]
    try:
        for place, name, part in zip(places, names, parts.values(), strict=True):
            setattr(place, name, part)
        yield
    finally:
        for place, name, part in zip(places, names, own, strict=True):
            setattr(place, name, part)


def shared(network: nn.Module) -> dict[str, Once]:
    """The first self-attention of a U-Net or ControlNet: halves that the text alone tells apart are still the same.

    The convolutions before it are shared as well, but of half a batch they may be rounded otherwise.
    """
    for name, part in network.named_modules():
        if name.startswith("down_blocks.") and name.endswith("attn1"):
            return {} if part.is_cross_attention else {name: Once(part)}
    return {}


def attending(network: nn.Module, text: Float[Tensor, "b n d"]) -> dict[str, Known]:
    """The keys and values of every cross-attention of a U-Net to a text that stays."""
    ends = ("attn2.to_k", "attn2.to_v")
    return {name: Known(part(text)) for name, part in network.named_modules() if name.endswith(ends)}


@contextmanager
def encoded(vae: nn.Module, moments: Float[Tensor, "b n h w"]) -> Iterator[None]:
    """Inside, an autoencoder need not look at a batch whose moments are known: a backbone may ask it for the same."""
    after = {} if getattr(vae, "quant_conv", None) is None else {"quant_conv": nn.Identity()}
    with standing(vae, {"encoder": Known(moments), **after}):
        yield
