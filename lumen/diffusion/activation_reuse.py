"""Stand-ins for parts of a frozen network whose work would be done again for nothing."""

from collections.abc import Iterator
from contextlib import contextmanager

from jaxtyping import Float
from torch import Tensor, nn

from lumen.core.patching import Known, Once, standing


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
