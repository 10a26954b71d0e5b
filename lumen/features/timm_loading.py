"""Networks of timm by name, folder, hub id or file of weights, with the checks of what a user may get wrong."""

import inspect
import os
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import load_file
from timm.models import VisionTransformer
from torch import Tensor, nn

from lumen.core.errors import BadConfig, Note, UnknownName, WeightsMissing, short_suggestion
from lumen.core.paths import user_path
from lumen.features.pretrained import building_on_meta, loading_errors, resolve_weights
from lumen.features.timm_network import TimmNetwork

FILES = ["config.json", "model.safetensors"]
CONTENTS = "config.json and model.safetensors, as timm.models.save_for_hf(..., safe_serialization=True) writes them"
TINY_CONFIG = {"embed_dim": 32, "depth": 4, "num_heads": 2}  # replaces the sizes of a small Vision Transformer
LISTING = "python -c 'import timm; print(*timm.list_models(), sep=chr(10))'"


def build_timm_backbone(
    name: str,
    architecture: str,
    layer: int | Iterable[int],
    facet: str,
    fit: bool,
    weights: str,
    revision: str | None,
    *,
    tiny: dict[str, Any] | None = None,
    kind: type[nn.Module] = VisionTransformer,
) -> TimmNetwork:
    """Return a backbone with a network of timm.

    Args:
        name: Name of the backbone.
        architecture: timm's name of the model, which is also that of its published weights.
        weights: "published", "none", "scenes", a timm folder or a hub id. A folder has its own architecture.
        revision: Commit, tag or branch of a hub id.
        tiny: Arguments that make the architecture small, for tests; it then has no published weights.
        kind: Class of timm that the network of a folder must have; for nn.Module it must be the architecture itself.

    Raises:
        WeightsMissing: The weights do not exist, cannot be read, or belong to another kind of network.
    """
    hub_id = None if tiny else _find_hub_id(architecture, weights)
    path = resolve_weights(weights, name, hub_id, revision, FILES)
    with loading_errors(path, name, CONTENTS):
        net, fixed_size = create_network(f"local-dir:{path}" if path else architecture, path is not None, kind, tiny)
        own = net.pretrained_cfg["architecture"]
        if kind is nn.Module and own != architecture.partition(".")[0]:
            raise TypeError(f"its architecture is {own}, not {architecture}")
    backbone = TimmNetwork(name, net, layer, facet, fit, fixed_size)
    backbone.source = str(path or "")
    return backbone


def _find_hub_id(architecture: str, weights: str) -> str:
    """Return the hub id of the published weights of an architecture.

    Raises:
        WeightsMissing: They are asked for, and timm knows none on the hub.
    """
    card = timm.get_pretrained_cfg(architecture)
    if not (hub_id := card and card.hf_hub_id) and weights == "published":
        raise WeightsMissing(
            f"timm knows no weights of {architecture} on the hub; give a file, a timm folder or a hub id as "
            "weights=PATH, or weights=none (untrained)."
        )
    return hub_id or ""


def create_network(
    source: str, pretrained: bool, kind: type[nn.Module], options: dict[str, Any] | None = None
) -> tuple[nn.Module, tuple[int, int] | None]:
    """Return a network of timm without its classifier, and the image size that it is bound to, if it is to one.

    Args:
        source: Name of the model, or local-dir:DIR.
        pretrained: Load the weights of the source.
        kind: Class of timm that the network must have.
        options: Arguments that replace those of the architecture.

    Raises:
        TypeError: The network is of another class.
        BadConfig: The network yields no feature maps.
    """
    options = options or {}
    with torch.device("meta"):  # of the architecture alone, because only some take `dynamic_img_size`
        architecture = timm.create_model(source, num_classes=0, **options).eval()
    own = architecture.pretrained_cfg["architecture"]
    if not isinstance(architecture, kind):
        raise TypeError(f"its architecture {own} is timm's {type(architecture).__name__}, not its {kind.__name__}")
    if not hasattr(architecture, "forward_intermediates"):
        raise BadConfig(f"timm's {own} yields no feature maps (it has no forward_intermediates); choose another model.")
    if "dynamic_img_size" in inspect.signature(type(architecture).__init__).parameters:
        options, fixed_size = {**options, "dynamic_img_size": True}, None
    else:
        fixed_size = _find_fixed_size(architecture)
    load = pretrained and not building_on_meta()
    return timm.create_model(source, load, num_classes=0, **options), fixed_size


def _find_fixed_size(architecture: nn.Module) -> tuple[int, int] | None:
    """Return the height and width of the images of a network that takes no others; None for any other network.

    Args:
        architecture: Network on the meta device, where a forward pass computes shapes alone.
    """
    step = max(info["reduction"] for info in architecture.feature_info)
    try:
        with torch.no_grad():
            image = torch.empty(1, 3, 2 * step, 3 * step, device="meta")
            architecture.forward_intermediates(image, intermediates_only=True)
    except (AssertionError, RuntimeError, ValueError):  # each network of timm refuses a size in its own way
        return tuple(architecture.pretrained_cfg["input_size"][1:])
    return None


def require_model(model: str) -> str:
    """Return the name of a model of timm, with the tag of its weights if it has one.

    Raises:
        UnknownName: timm has no such model, or no such weights of the model.
    """
    known = timm.list_pretrained() if "." in model else timm.list_models()
    if model in known:
        return model
    hint = short_suggestion(model, [*timm.list_models(), *timm.list_pretrained()], LISTING)
    raise UnknownName(f"backbone.model: timm has no model '{model}'; {hint}")


def find_weight_file(weights: str) -> Path | None:
    """Return the path of a single file of weights; None if the weights are something else."""
    path = user_path(weights)
    return path if weights and os.path.isfile(path) else None


def load_weight_file(net: nn.Module, model: str, path: Path) -> None:
    """Load a file of tensors into a network of timm, by their names or, where these are others', by their order.

    Args:
        net: Network without its classifier, on which no output of it depends.
        model: timm's name of the network.

    Raises:
        WeightsMissing: The file cannot be read, or holds other tensors than the network.
    """
    with loading_errors(path, model, f"the tensors of timm's {model}, under timm's names or in timm's order"):
        state = _read_tensors(path)
        own = _without_counters(net.state_dict())
        if not own.keys() <= state.keys():
            with torch.device("meta"):
                names = _without_counters(timm.create_model(model).state_dict())  # with the classifier
            state = _rename(_without_counters(state), names)
            note = f"{path} has other names than timm's, so its {len(state)} tensors were taken in timm's order."
            warnings.warn(note, Note, stacklevel=2)
        if not building_on_meta():
            net.load_state_dict({key: state[key] for key in own}, strict=False)


def _without_counters(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of a network without single numbers, such as the batches that a norm has counted."""
    return {key: tensor for key, tensor in state.items() if tensor.ndim}


def _rename(state: dict[str, Tensor], names: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors under the names of others of the same shapes in the same order.

    Raises:
        ValueError: Their number or shapes differ.
    """
    shapes, expected = ([tuple(tensor.shape) for tensor in side.values()] for side in (state, names))
    if len(shapes) != len(expected):
        raise ValueError(f"it holds {len(shapes)} tensors under other names, and the network {len(expected)}")
    for key, shape, name, other in zip(state, shapes, names, expected, strict=True):
        if shape != other:
            raise ValueError(f"its {key} has the shape {shape}, and {name} in its place {other}")
    return dict(zip(names, state.values(), strict=True))


def _read_tensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a .safetensors or .pth file; no code in it runs.

    Raises:
        ValueError: It holds something else.
    """
    if path.suffix == ".safetensors":
        return load_file(path)
    state = torch.load(path, map_location="cpu", weights_only=True)
    if isinstance(state, dict):
        state = next((state[key] for key in ("state_dict", "model") if isinstance(state.get(key), dict)), state)
    if not isinstance(state, dict) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise ValueError("it is no dict of tensors by name")
    return state
