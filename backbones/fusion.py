"""Fusion of backbones (Zhang et al. 2023, arXiv:2305.15347): Stable Diffusion and DINOv2 in one feature."""

from collections.abc import Sequence
from functools import cached_property
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from lumen.core.errors import BadConfig, WeightsMissing
from lumen.core.hashing import hash_json
from lumen.core.interfaces import Backbone
from lumen.core.ranges import Range
from lumen.core.registry import backbones


class Fusion(Backbone):
    """Features of several backbones, each normalised and weighted, side by side; the PCA of a layout joins them.

    A cell's feature is α_i f_i / |f_i| for each member i, resized to the finest of their maps.

    Args:
        members: Backbones.
        shares: α of each member; A Tale of Two Features uses 0.5 and 0.5.
    """

    def __init__(self, members: Sequence[Backbone], shares: Sequence[float]):
        super().__init__()
        order = sorted(range(len(members)), key=lambda i: -members[i].stride)  # coarse to fine
        self.members = nn.ModuleList(members[i] for i in order)
        self.shares = [shares[i] for i in order]
        self.map_channels = tuple(member.channels for member in self.members)
        self.stride = self.members[-1].stride
        self.freeze()

    @torch.no_grad()
    def feature_maps(self, image: Float[Tensor, "b 3 H W"]) -> list[Tensor]:
        """Return one map per member, coarse to fine."""
        pairs = zip(self.members, self.shares, strict=True)
        return [share * F.normalize(member.features(image), dim=1) for member, share in pairs]

    @cached_property
    def identity(self) -> dict[str, str]:
        """Names and shares, arguments of each member, and one hash of the weights of all."""
        identities = [member.identity for member in self.members]
        own = {"name": "fusion", "shares": ",".join(map(str, self.shares))}
        weights = hash_json([identity.get("weights") for identity in identities])[:16]
        arguments = {
            f"{i}.{key}": value
            for i, identity in enumerate(identities)
            for key, value in identity.items()
            if key != "weights"
        }
        return own | arguments | {"weights": weights}


@backbones.register
def fusion(
    of: list[str] | tuple[str, ...] = ("sd", "dinov2"),
    shares: Annotated[list[float] | None, Range(1e-6, 1e6)] = None,
    size: str | None = None,
    fit: bool | None = None,
    weights: str | list[str] = "published",
) -> Fusion:
    """Return the features of several backbones, each divided by its length and weighted.

    Args:
        of: Names of backbones, which have their default arguments.
        shares: Weight of each backbone; None weights all alike, with a sum of 1.
        size: Size of every backbone that has one; None is its default.
        fit: Resize images for every backbone; None is its default.
        weights: "published", "none" or "scenes" for all, or a list with the weights of each.
    """
    shares = shares or [1 / len(of) for _ in of]
    sources = [weights] * len(of) if isinstance(weights, str) else weights
    if not of or not len(of) == len(shares) == len(sources):
        raise BadConfig(
            f"backbone.of has {len(of)} names, backbone.shares {len(shares)} numbers and backbone.weights "
            f"{len(sources)} sources; give each backbone one share and one source of weights."
        )
    given = {"size": size, "fit": fit}
    members = [_build_member(name, given | {"weights": source}) for name, source in zip(of, sources, strict=True)]
    return Fusion(members, shares)


def _build_member(name: str, arguments: dict[str, Any]) -> Backbone:
    """Return a backbone with those of the arguments that it has; None is its default.

    Raises:
        BadConfig: The backbone needs an argument that a fusion cannot give, or does not take a value.
        WeightsMissing: Its weights do not exist.
    """
    accepted = backbones.arguments(name)
    if missing := [key for key, argument in accepted.items() if argument.required]:
        raise BadConfig(f"backbone.of: {name} needs {missing[0]}=..., which a fusion cannot give; choose another one.")
    own = {key: value for key, value in arguments.items() if key in accepted and value is not None}
    for key, value in own.items():
        if problem := accepted[key].find_problem(value, own):
            raise BadConfig(f"backbone.{key} of {name} in a fusion {problem}.")
    try:
        return backbones.build(name, **own)
    except WeightsMissing as error:
        raise WeightsMissing(f"fusion: {error}") from error
