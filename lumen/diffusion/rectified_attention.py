"""Rectified cross-attention (Xue et al. 2023, arXiv:2303.14412): each word reaches the pixels of its class alone."""

import torch.nn.functional as F
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from jaxtyping import Bool, Float, Int
from torch import Tensor

EVERY_CLASS = -1  # class of a token that all pixels see


class RectifiedAttention(AttnProcessor2_0):
    """Attention processor of diffusers with a mask of the tokens that each query sees.

    The logits of all other tokens are minus infinity, so nothing of such a token reaches the query, not even a bit.
    """

    def __call__(
        self,
        attn: Attention,
        hidden_states: Float[Tensor, "b q c"],
        encoder_hidden_states: Float[Tensor, "b n d"] | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
        token_masks: dict[int, Bool[Tensor, "B _ n"]] | None = None,
    ) -> Float[Tensor, "b q c"]:
        """Return the attention's output.

        Args:
            token_masks: Masks by number of queries; self-attention has none.
        """
        if encoder_hidden_states is not None and token_masks is not None:
            attention_mask = token_masks[hidden_states.shape[1]]
        return super().__call__(attn, hidden_states, encoder_hidden_states, attention_mask, temb)


def token_masks(
    label_maps: Float[Tensor, "b k _ _"], token_classes: Int[Tensor, "b n"], size: tuple[int, int], levels: int
) -> dict[int, Bool[Tensor, "b _ n"]]:
    """Return which tokens each query sees, by the number of queries at each level of a U-Net.

    Args:
        label_maps: One channel per class, 1 on its pixels; they are resized to the nearest pixel.
        token_classes: Class of each token, or EVERY_CLASS.
        size: Height and width at the first level; each further one has half of both, rounded up.
    """
    h, w = size
    masks = {}
    for _ in range(levels):
        cells = F.interpolate(label_maps, (h, w), mode="nearest").flatten(2).transpose(1, 2) > 0.5
        index = token_classes.clamp(min=0)[:, None].expand(-1, h * w, -1)
        masks[h * w] = cells.gather(2, index) | (token_classes == EVERY_CLASS)[:, None]
        h, w = (h + 1) // 2, (w + 1) // 2
    return masks
