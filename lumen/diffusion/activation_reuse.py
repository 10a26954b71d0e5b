"""Reuse of activations of a frozen U-Net that are constant over sampling steps, or equal for both guidance branches."""

from collections.abc import Iterator
from contextlib import contextmanager

from jaxtyping import Float
from torch import Tensor, nn

from lumen.core.patching import ConstantOutput, FirstPart, replace_submodules


def shared_self_attention(network: nn.Module) -> dict[str, FirstPart]:
    """Return a replacement for the first self-attention of a U-Net or ControlNet under classifier-free guidance.

    Both halves of the batch are equal there, because only later cross-attention tells them apart. The convolutions
    before it are equal as well, but half a batch may round otherwise.
    """
    for name, module in network.named_modules():
        if name.startswith("down_blocks.") and name.endswith("attn1"):
            return {} if module.is_cross_attention else {name: FirstPart(module)}
    return {}


def cached_cross_attention_kv(network: nn.Module, text: Float[Tensor, "b n d"]) -> dict[str, ConstantOutput]:
    """Return replacements for the key and value projections of every cross-attention to a constant text."""
    ends = ("attn2.to_k", "attn2.to_v")
    return {name: ConstantOutput(module(text)) for name, module in network.named_modules() if name.endswith(ends)}


def constant_activations(network: nn.Module, text: Float[Tensor, "b n d"], guided: bool) -> dict[str, nn.Module]:
    """Return replacements of all modules whose outputs are equal at every step, or in both guidance branches.

    The result of the network stays bit-identical.
    """
    return cached_cross_attention_kv(network, text) | (shared_self_attention(network) if guided else {})


@contextmanager
def known_latents(vae: nn.Module, moments: Float[Tensor, "b n h w"]) -> Iterator[None]:
    """Skip the encoder inside the context: a backbone that encodes the same images gets these moments."""
    after = {} if getattr(vae, "quant_conv", None) is None else {"quant_conv": nn.Identity()}
    with replace_submodules(vae, {"encoder": ConstantOutput(moments), **after}):
        yield
