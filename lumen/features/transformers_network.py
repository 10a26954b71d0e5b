"""Vision networks of transformers as backbones: the layers of any image or video encoder, by hooks."""

import inspect
from collections.abc import Iterable
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lumen.core.errors import BadConfig
from lumen.core.interfaces import Backbone
from lumen.core.tensor_hashing import fingerprint
from lumen.features.extraction import (
    Normalization,
    capture_outputs,
    resize_to_multiple,
    resize_to_size,
    select_layers,
    tokens_to_map,
)

TOWERS = ("vision_model", "vision_encoder", "vision_tower", "backbone")  # attributes that hold a model's vision part
NORMS = ("layernorm", "post_layernorm", "norm", "layer_norm")  # names of the norm after the last layer
FACETS = {"key": ("key", "k_proj"), "value": ("value", "v_proj")}  # names of the projections of a layer's attention
COARSEST = 32  # px per cell of the coarsest map of hierarchical networks
MAX_PREFIX = 16  # class and register tokens before those of the cells


class TransformersNetwork(Backbone):
    """Dense features of a vision network of transformers: one map per layer, coarse to fine.

    The layers are the longest list of modules in the vision part of the model. A network of videos is given an image as
    a video of equal frames.

    Args:
        name: Name of the backbone.
        model: Model of transformers.
        architecture: The same model on the meta device, where a forward pass computes shapes alone.
        mean: Mean of each colour, in [0, 1], of the network's own preprocessing.
        std: Standard deviation of each colour.
        layer: One layer or several, from 0; -1 is the last.
        facet: "token": output of a layer under the network's final norm. "key", "value": those of its attention.
        fit: Resize images to the nearest multiple of the coarsest cell.

    Raises:
        BadConfig: The network has no such layer, no such facet, or no maps of an image.
    """

    def __init__(
        self,
        name: str,
        model: nn.Module,
        architecture: nn.Module,
        mean: Iterable[float],
        std: Iterable[float],
        layer: int | Iterable[int],
        facet: str,
        fit: bool,
    ):
        super().__init__()
        self.name, self.facet, self.fit = name, facet, fit
        self.net = _find_tower(model)
        self.layers = select_layers(layer, len(_find_layers(self.net)), name)
        # V-JEPA 2 counts its positions in rows of this size, so any other would mix rows up.
        size = getattr(self.net.config, "crop_size", None)
        self.fixed_size = (size, size) if size else None
        self.normalise = Normalization(mean, std)
        self.freeze()
        shapes = self._probe(_find_tower(architecture))
        self.order = sorted(range(len(shapes)), key=lambda i: -shapes[i][1])
        self.map_channels = tuple(shapes[i][0] for i in self.order)
        self.stride = min(stride for _, stride in shapes)

    @torch.no_grad()
    def feature_maps(self, image: Float[Tensor, "b 3 H W"]) -> list[Tensor]:
        """Return one map per layer, coarse to fine; no later layer is computed."""
        if self.fixed_size is None:
            image = resize_to_multiple(image, self.step, self.fit, self.name)
        else:
            image = resize_to_size(image, self.fixed_size, self.fit, self.name)
        image = self.normalise(image)
        maps = self._read_maps(self.net, image)
        return [maps[i] for i in self.order]

    def _probe(self, tower: nn.Module) -> list[tuple[int, int]]:
        """Return channels and stride of each layer's map, and set `step`: the pixels that divide an image's sides.

        Raises:
            BadConfig: No layer has maps of an image.
        """
        patch = getattr(tower.config, "patch_size", COARSEST)
        patch = patch[0] if isinstance(patch, list | tuple) else patch
        for step in (patch, COARSEST, 2 * COARSEST):
            self.step = step
            height, width = 4 * step, 6 * step  # of another ratio than a square, so that channels cannot be mistaken
            try:
                with torch.no_grad():
                    maps = self._read_maps(tower, torch.empty(1, 3, height, width, device="meta"))
            except (AssertionError, RuntimeError, ValueError, IndexError, TypeError):
                continue  # each network of transformers refuses a size in its own way
            return [(features.shape[1], height // features.shape[2]) for features in maps]
        raise BadConfig(
            f"{self.name}: the layers of {type(tower).__name__} yield no maps of images; choose another model."
        )

    def _read_maps(self, tower: nn.Module, image: Float[Tensor, "b 3 h w"]) -> list[Tensor]:
        """Return the maps of the layers, in the order of the layers."""
        layers = _find_layers(tower)
        modules = [layers[index] for index in self.layers]
        if self.facet != "token":
            modules = [self._find_projection(module) for module in modules]
        with capture_outputs(modules) as outputs:
            _run(tower, image)
        norm = _find_norm(tower) if self.facet == "token" else None
        return [_to_map(output, norm, image.shape[-2:], self.step) for output in outputs]

    def _find_projection(self, layer: nn.Module) -> nn.Module:
        """Return the module that projects the keys or values of a layer's attention."""
        for name, module in layer.named_modules():
            if name.rpartition(".")[2] in FACETS[self.facet] and isinstance(module, nn.Linear):
                return module
        raise BadConfig(f"{self.name}: a {type(layer).__name__} has no {self.facet}s; leave out backbone.facet.")

    @cached_property
    def identity(self) -> dict[str, str]:
        """Name, architecture, layers, facet and hash of the weights."""
        return {
            "name": self.name,
            "architecture": f"{type(self.net).__name__} of {len(_find_layers(self.net))} layers",
            "layer": ",".join(map(str, self.layers)),
            "facet": self.facet,
            "weights": fingerprint(self),
        }


def _find_tower(model: nn.Module) -> nn.Module:
    """Return the vision part of a model; the model itself where it has no other part."""
    while inner := next((getattr(model, name) for name in TOWERS if hasattr(model, name)), None):
        model = inner
    return model


def _find_layers(tower: nn.Module) -> nn.ModuleList:
    """Return the longest list of modules of a network."""
    lists = [module for module in tower.modules() if isinstance(module, nn.ModuleList)]
    if not lists:
        raise BadConfig(f"backbone.model: a {type(tower).__name__} has no list of layers; choose another model.")
    return max(lists, key=len)


def _find_norm(tower: nn.Module) -> nn.Module | None:
    """Return the norm after the last layer, which stands beside the layers or in the module around them."""
    layers = _find_layers(tower)
    for module in (tower, *(module for module in tower.modules() if layers in module.children())):
        for name in NORMS:
            if isinstance(norm := getattr(module, name, None), nn.LayerNorm):
                return norm
    return None


def _run(tower: Any, image: Float[Tensor, "b 3 h w"]) -> None:
    """Run a network on images; one of videos gets each image as often as a cell has frames."""
    if tower.main_input_name == "pixel_values_videos":
        frames = getattr(tower.config, "tubelet_size", 1)
        image = image[:, None].expand(-1, frames, -1, -1, -1)
        tower(image, skip_predictor=True)
    elif "interpolate_pos_encoding" in inspect.signature(tower.forward).parameters:
        tower(image, interpolate_pos_encoding=True)
    else:
        tower(image)


def _to_map(output: Tensor, norm: nn.Module | None, sides: tuple[int, int], step: int) -> Float[Tensor, "b c h w"]:
    """Return the output of a layer as a map: tokens, cells with channels last, or cells with channels first.

    Raises:
        ValueError: It is none of them.
    """
    height, width = sides
    if output.ndim == 3:
        grid = height // step, width // step
        prefix = output.shape[1] - grid[0] * grid[1]
        if not 0 <= prefix <= MAX_PREFIX:
            raise ValueError("other tokens than those of the cells")
        return tokens_to_map((norm(output) if norm else output)[:, prefix:], grid)
    if output.ndim == 4 and output.shape[2] * width == output.shape[3] * height:
        return output
    if output.ndim == 4 and output.shape[1] * width == output.shape[2] * height:
        return output.permute(0, 3, 1, 2)
    raise ValueError("no map")
