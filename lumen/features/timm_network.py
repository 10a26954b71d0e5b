"""Networks of timm as backbones: Vision Transformers and hierarchical networks by one interface."""

from collections.abc import Iterable
from functools import cached_property

import torch
from jaxtyping import Float
from timm.data import resolve_model_data_config
from torch import Tensor, nn

from lumen.core.errors import BadConfig
from lumen.core.interfaces import Backbone
from lumen.core.interfaces.script import FeatureScript, WeightsExpression
from lumen.core.tensor_hashing import fingerprint
from lumen.features.attention_facets import QKV_INDEX, SOURCES, capture_facet
from lumen.features.extraction import Normalization, resize_to_multiple, resize_to_size, select_layers, tokens_to_map
from lumen.features.layout_script import normalization_code, resize_code


class TimmNetwork(Backbone):
    """Dense features of a network of timm: one map per layer, coarse to fine.

    Args:
        name: Name of the backbone.
        net: Network of timm with `forward_intermediates`.
        layer: One layer or several, from 0; -1 is the last. They are the blocks of a Vision Transformer, and the stages
            of a network whose maps become coarser.
        facet: "token": output of a layer, of a Vision Transformer under its final norm. These are DINOv2's
            x_norm_patchtokens; for earlier blocks they equal its get_intermediate_layers(norm=True). "key", "value":
            keys or values of the block's attention with all heads concatenated (Amir et al. 2021, arXiv:2112.05814).
        fit: Resize images to sides that the network takes.
        fixed_size: Height and width of the images, in pixels, of a network that takes no others.

    Raises:
        BadConfig: The network has no such layer, or no keys and values.
    """

    def __init__(
        self,
        name: str,
        net: nn.Module,
        layer: int | Iterable[int],
        facet: str,
        fit: bool,
        fixed_size: tuple[int, int] | None = None,
    ):
        super().__init__()
        self.name, self.net, self.facet, self.fit, self.fixed_size = name, net, facet, fit, fixed_size
        infos = list(net.feature_info)
        self.layers = select_layers(layer, len(infos), name)
        if facet != "token" and not isinstance(net, SOURCES):
            raise BadConfig(f"{name}: a {type(net).__name__} has no {facet}s of one grid; leave out backbone.facet.")
        # A network whose maps become coarser has no norm that fits all of its stages. SAM's norm is its neck, which
        # changes the channels and was trained on the last block alone.
        has_neck = "num_chs_norm" in infos[-1]
        is_columnar = len({info["reduction"] for info in infos}) == 1
        self.norm = is_columnar and (not has_neck or self.layers == [len(infos) - 1])
        channels = "num_chs_norm" if has_neck and self.norm else "num_chs"
        # Coarse to fine; layers of one resolution stay in their order.
        self.order = sorted(range(len(self.layers)), key=lambda i: -infos[self.layers[i]]["reduction"])
        self.map_channels = tuple(infos[self.layers[i]][channels] for i in self.order)
        reductions = [infos[index]["reduction"] for index in self.layers]
        self.step, self.stride = max(reductions), min(reductions)
        card = resolve_model_data_config(net)
        # The fingerprint of the weights covers the names of buffers, so this attribute must keep its name.
        self.normalise = Normalization(card["mean"], card["std"])
        self.freeze()

    @torch.no_grad()
    def feature_maps(self, image: Float[Tensor, "b 3 H W"]) -> list[Tensor]:
        """Return one map per layer, coarse to fine; no later layer is computed."""
        image = self.normalise(self._resize(image))
        if self.facet == "token":
            maps = self.net.forward_intermediates(
                image, indices=self.layers, norm=self.norm, stop_early=True, intermediates_only=True
            )
        else:
            blocks = [self.net.blocks[layer] for layer in self.layers]
            tokens = capture_facet(blocks, self.facet, lambda: self.net.forward_features(image))
            grid = image.shape[-2] // self.step, image.shape[-1] // self.step
            maps = [tokens_to_map(x[:, self.net.num_prefix_tokens :], grid) for x in tokens]
        return [maps[i] for i in self.order]

    def _resize(self, image: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b 3 h w"]:
        """Return the image at sides that the network takes."""
        if self.fixed_size is None:
            return resize_to_multiple(image, self.step, self.fit, self.name)
        return resize_to_size(image, self.fixed_size, self.fit, self.name)

    def script(self, size: int, locate: WeightsExpression) -> FeatureScript | None:
        """Return code with timm alone; None without files of weights, and for keys and values of unusual attentions."""
        blocks = [] if self.facet == "token" else [self.net.blocks[layer] for layer in self.layers]
        if not self.source or any(not isinstance(getattr(block.attn, "qkv", None), nn.Linear) for block in blocks):
            return None
        folder = locate(self.source, "backbone")
        image = self._resize(torch.zeros(1, 3, size, size, device=self.normalise.mean.device))
        grid = image.shape[-2] // self.step, image.shape[-1] // self.step
        options = ", dynamic_img_size=True" if getattr(self.net, "dynamic_img_size", False) else ""
        setup = [
            f"WEIGHTS = {folder}",
            f'NET = timm.create_model(f"local-dir:{{WEIGHTS}}", pretrained=True, num_classes=0{options}).eval()',
            normalization_code(self.normalise),
        ]
        body = [] if image.shape[-1] == size else [resize_code(tuple(image.shape[-2:]))]
        body.append("image = ((image + 1) / 2 - MEAN) / STD")
        if self.facet == "token":
            options = f"indices={self.layers}, norm={self.norm}, intermediates_only=True"
            body.append(f"maps = NET.forward_intermediates(image, {options})")
        else:
            index = QKV_INDEX[self.facet]
            setup.append("OUTPUTS = []")
            setup.append(f"for layer in {self.layers}:")
            hook = f"lambda module, x, y: OUTPUTS.append(y.chunk(3, dim=-1)[{index}])"
            setup.append(f"    NET.blocks[layer].attn.qkv.register_forward_hook({hook})  # {self.facet}s")
            body += ["OUTPUTS.clear()", "NET.forward_features(image)"]
            body.append(f"maps = [y[:, NET.num_prefix_tokens :].mT.unflatten(2, {grid}) for y in OUTPUTS]")
        order = "maps" if self.order == sorted(self.order) else f"[maps[i] for i in {self.order}]"
        return FeatureScript("timm", "import timm", "\n".join(setup), "\n".join([*body, f"return {order}"]))

    @cached_property
    def identity(self) -> dict[str, str]:
        """Name, architecture, layers, facet and hash of the weights.

        `fit` is left out: where both of its values give features, the features are equal.
        """
        return {
            "name": self.name,
            "architecture": self.net.pretrained_cfg["architecture"],
            "layer": ",".join(map(str, self.layers)),
            "facet": self.facet,
            "weights": fingerprint(self),
        }
