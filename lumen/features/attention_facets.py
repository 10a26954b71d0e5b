"""Keys and values of the attention of timm's transformers, with all heads concatenated."""

from collections.abc import Callable

import torch.nn.functional as F
from timm.models.beit import Beit
from timm.models.eva import Eva
from timm.models.naflexvit import NaFlexVit
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from lumen.features.extraction import capture_outputs

QKV_INDEX = {"key": 1, "value": 2}  # position in the output of a block's qkv
SOURCES = (VisionTransformer, Eva, NaFlexVit, Beit)  # networks whose blocks attend to all tokens, in their order


def capture_facet(blocks: list[nn.Module], facet: str, forward: Callable[[], object]) -> list[Tensor]:
    """Return keys or values (b, n, c) of the attention of blocks, before norms and rotary embeddings of single heads.

    Args:
        blocks: Blocks in the order in which they run.
        facet: "key" or "value".
        forward: Forward pass of the network, which ends at the last of the blocks.
    """
    attentions = [block.attn for block in blocks]
    separate = {"key": "k_proj", "value": "v_proj"}[facet]
    if getattr(attentions[0], separate, None) is not None:
        return _run([getattr(attention, separate) for attention in attentions], False, forward)
    if getattr(attentions[0], "q_bias", None) is None:
        return [_chunk(qkv, facet) for qkv in _run([attention.qkv for attention in attentions], False, forward)]
    inputs = _run(attentions, True, forward)
    return [_project(attention, x, facet) for attention, x in zip(attentions, inputs, strict=True)]


def _run(modules: list[nn.Module], inputs: bool, forward: Callable[[], object]) -> list[Tensor]:
    with capture_outputs(modules, inputs=inputs) as captured:
        forward()
    return captured


def _chunk(qkv: Tensor, facet: str) -> Tensor:
    return qkv.chunk(3, dim=-1)[QKV_INDEX[facet]]


def _project(attention: nn.Module, x: Tensor, facet: str) -> Tensor:
    """Return keys or values of an attention whose qkv has its biases apart, which is not called as a module."""
    bias = {"key": attention.k_bias, "value": attention.v_bias}[facet]
    return F.linear(x, attention.qkv.weight.chunk(3)[QKV_INDEX[facet]], bias)
