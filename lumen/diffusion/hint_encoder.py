"""Hint encoder of a ControlNet: its channels, its initialisation, and its form for layouts at the size of the image."""

import math
from collections.abc import Iterator
from itertools import product

import torch
from diffusers.models.controlnets.controlnet import ControlNetConditioningEmbedding
from torch import nn

HINT_WIDTHS = (0.05, 0.1, 0.3, 0.8)  # of the stages, as shares of the U-Net's first width
SHIFTS = ((0, 0), (0, 1), (1, 0), (1, 1))  # of the copies of a layout in an enlarged encoder, in pixels (y, x)


def hint_channels(width: int, stages: int) -> tuple[int, ...]:
    """Return the channels of each stage; four stages of a U-Net of width 320 are ControlNet's 16, 32, 96, 256.

    They are proportional to the U-Net's first width; fixed ones would be half of a small model's work.
    """
    if stages == 1:
        return (width,)
    return tuple(max(4, round(width * share)) for share in HINT_WIDTHS[:stages])


def init_hint_encoder(encoder: nn.Module) -> None:
    """Initialise a strided hint encoder after He et al. 2015 (arXiv:1502.01852).

    A tenth of the layout's contrast passes it. Of PyTorch's default, which ControlNet uses, less than a hundredth
    passes, and hundreds of steps go by before the layout has an effect.
    """
    for conv in (encoder.conv_in, *encoder.blocks):
        nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
        nn.init.zeros_(conv.bias)


def adapt_hint_encoder(
    encoder: ControlNetConditioningEmbedding, channels: int, stages: int, downscale: int
) -> ControlNetConditioningEmbedding | None:
    """Return a published encoder as one for layouts of so many channels and stages; None if it is none.

    Args:
        stages: 1 for layouts at the size of the latents.
        downscale: Image pixels per cell of the latents.
    """
    if stages == 1 and len(encoder.blocks) > 1:
        encoder = reduce_hint_encoder(encoder, downscale)
    if encoder is None or len(encoder.blocks) // 2 + 1 != stages:
        return None
    if channels == 1 and encoder.conv_in.in_channels == 3:  # each of the three gets the layout, as with a grey image
        conv = nn.Conv2d(1, encoder.conv_in.out_channels, 3, padding=1)
        conv.load_state_dict(encoder.conv_in.state_dict() | {"weight": encoder.conv_in.weight.sum(1, keepdim=True)})
        encoder.conv_in = conv
    return encoder if encoder.conv_in.in_channels == channels else None


def enlarge_hint_encoder(encoder: ControlNetConditioningEmbedding, downscale: int) -> ControlNetConditioningEmbedding:
    """Return an equal encoder for layouts at the size of the image, with the structure that diffusers' pipelines take.

    In diffusers' structure a SiLU follows each convolution, but silu(x) - silu(-x) = x. So a pair of channels, x and
    -x, passes any number of them. Pairs are averaged over 2 x 2 pixels at each halving but the last. That one is the
    convolution over neighbouring cells, in which each cell has two pixels a side: it finds the cell before at its left
    tap, the cell itself at its middle tap, and the next cell at the right tap of a copy that is shifted by one pixel.

    The output equals that of `encoder` up to rounding for a layout that is constant within each cell of the latents.

    Args:
        encoder: Encoder of one stage, for layouts at the size of the latents.
        downscale: Image pixels per cell: a power of 2, from 2 on.
    """
    width, k = encoder.conv_in.weight.shape[:2]
    halvings = int(math.log2(downscale))
    channels = (*[2 * k] * (halvings - 1), 2 * k * len(SHIFTS), width)
    enlarged = ControlNetConditioningEmbedding(encoder.conv_out.out_channels, k, channels).to(encoder.conv_in.weight)
    for parameter in enlarged.parameters():
        nn.init.zeros_(parameter)
    pair = torch.eye(k).repeat(2, 1) * torch.tensor([1.0, -1.0]).repeat_interleave(k)[:, None]  # x to x and -x
    passage = pair @ pair.T  # a pair of channels to the next pair
    with torch.no_grad():
        enlarged.conv_in.weight[: 2 * k, :, 1, 1] = pair
        for conv in enlarged.blocks[:-2:2]:
            conv.weight[:, :, 1, 1] = passage
        for conv in enlarged.blocks[1:-1:2]:
            conv.weight[: 2 * k, : 2 * k, 1:, 1:] = passage[..., None, None] / 4
        for copy, (y, x) in enumerate(SHIFTS):
            enlarged.blocks[-2].weight[2 * k * copy : 2 * k * (copy + 1), : 2 * k, 1 + y, 1 + x] = passage
        for taps, copy in _cell_taps(k):
            kernel = encoder.conv_in.weight[(..., *taps)]
            enlarged.blocks[-1].weight[:, copy][(..., *taps)] = torch.cat([kernel, -kernel], dim=1)
        enlarged.blocks[-1].bias.copy_(encoder.conv_in.bias)
    enlarged.conv_out.load_state_dict(encoder.conv_out.state_dict())
    return enlarged


def reduce_hint_encoder(
    enlarged: ControlNetConditioningEmbedding, downscale: int
) -> ControlNetConditioningEmbedding | None:
    """Return the encoder that `enlarge_hint_encoder` has enlarged, bit for bit; None for any other encoder."""
    width, k = enlarged.conv_out.in_channels, enlarged.conv_in.in_channels
    if len(enlarged.blocks) < 2 or enlarged.blocks[-1].in_channels != 2 * k * len(SHIFTS):
        return None
    encoder = ControlNetConditioningEmbedding(enlarged.conv_out.out_channels, k, (width,)).to(enlarged.conv_in.weight)
    with torch.no_grad():
        for taps, copy in _cell_taps(k):
            encoder.conv_in.weight[(..., *taps)] = enlarged.blocks[-1].weight[:, copy][(..., *taps)][:, :k]
        encoder.conv_in.bias.copy_(enlarged.blocks[-1].bias)
    encoder.conv_out.load_state_dict(enlarged.conv_out.state_dict())
    again, state = enlarge_hint_encoder(encoder, downscale).state_dict(), enlarged.state_dict()
    equal = again.keys() == state.keys() and all(torch.equal(again[name], state[name]) for name in state)
    return encoder if equal else None


def _cell_taps(k: int) -> Iterator[tuple[tuple[int, int], slice]]:
    """Yield each tap of a kernel over cells, with the channels of the shifted copy that it reads."""
    for taps in product(range(3), repeat=2):
        copy = SHIFTS.index((int(taps[0] == 2), int(taps[1] == 2)))
        yield taps, slice(2 * k * copy, 2 * k * (copy + 1))
