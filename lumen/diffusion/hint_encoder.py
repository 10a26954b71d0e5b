"""Hint encoder of a ControlNet: its channels and its initialisation."""

from torch import nn

HINT_WIDTHS = (0.05, 0.1, 0.3, 0.8)  # of the stages, as shares of the U-Net's first width


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
