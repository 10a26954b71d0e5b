"""Pretrained weights: resolution of a config value to a folder, and errors of loading the folder."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from diffusers.utils import logging as diffusers_logging
from torch import nn
from transformers.utils import logging as transformers_logging

from lumen.core.console import console
from lumen.core.errors import WeightsMissing, explain_shortage
from lumen.core.paths import user_path
from lumen.core.registry import backbones

SCENES_WEIGHTS = Path(__file__).parents[1] / "scenes" / "weights"  # networks trained on the offline world
LIBRARY_LOGS = (transformers_logging, diffusers_logging)
FILE_SUFFIXES = (".safetensors", ".ckpt", ".pt", ".pth", ".bin", ".gguf", ".onnx")  # of a single file of weights


def building_on_meta() -> bool:
    """Return whether networks are built under `torch.device("meta")`: as architectures, without weights."""
    return torch.get_default_device().type == "meta"


def resolve_weights(
    weights: str, name: str, hub_id: str | None, revision: str | None, files: list[str], key: str = "weights"
) -> Path | None:
    """Return the folder that holds a network's weights. Weights on the hub are downloaded unless they are cached.

    Args:
        weights: "published" (`hub_id`), "none" (untrained), "scenes" (the package's own), a local folder, or another
            hub id.
        name: Name of the network, in messages and as the folder of "scenes".
        hub_id: Hub id of the published weights; None if there are none.
        revision: Commit, tag or branch of a hub id; None is its main branch.
        files: Patterns of the files to download, so that other formats stay on the hub.
        key: Argument that gives the weights, for messages.

    Returns:
        None for "none", and for a hub id while only architectures are built.

    Raises:
        WeightsMissing: The weights do not exist; the message holds the command that downloads them.
    """
    if weights == "none":
        return None
    if weights == "published" and hub_id is None:
        raise WeightsMissing(
            f"the tiny {name} has no published weights; give weights=none (untrained) or weights=FOLDER."
        )
    if weights == "scenes":
        weights = _find_small_network(name, key)
    path = user_path(weights)
    if weights and os.path.isdir(path):  # os.path calls a name that no file can have missing; Path raises an error
        return path
    identifier = hub_id if weights == "published" else weights
    if weights != "published" and os.path.isfile(path):
        raise WeightsMissing(
            f"the weights of {name} cannot be read from '{weights}', which is a single file; give the folder that "
            "holds it together with its config files, or a hub id such as org/model."
        )
    if identifier.count("/") != 1 or identifier[0] in "./~" or path.suffix.lower() in FILE_SUFFIXES:
        raise WeightsMissing(
            f"the weights of {name} are not in '{weights}', which does not exist; "
            f"give an existing folder as {key}=FOLDER, a hub id such as org/model, published or none."
        )
    return None if building_on_meta() else _download(identifier, name, revision, files, key)


def _find_small_network(name: str, key: str) -> str:
    """Return the folder of a small network of `scenes`.

    Raises:
        WeightsMissing: There is none; the message names the others of its kind.
    """
    if (SCENES_WEIGHTS / name).is_dir():
        return str(SCENES_WEIGHTS / name)
    known = sorted(folder.name for folder in SCENES_WEIGHTS.iterdir() if folder.is_dir())
    if name in backbones.names():
        known = [other for other in known if other in backbones.names()]
    raise WeightsMissing(
        f"scenes has no small {name}; it has {', '.join(known)}. Give a folder as {key}=FOLDER, a hub id such "
        "as org/model, published or none."
    )


def resolve_transformers_weights(
    weights: str, name: str, revision: str | None, files: list[str], key: str = "weights"
) -> Path | None:
    """Return the folder of a transformers model, as `resolve_weights` does.

    The folder holds .safetensors, or pytorch_model.bin if the hub has no .safetensors. The latter must be loaded with
    weights_only=True, so that no code in it runs.
    """
    path = resolve_weights(weights, name, None, revision, [*files, "*.safetensors"], key)
    if path is None or any(path.glob("*.safetensors")):
        return path
    return resolve_weights(weights, name, None, revision, [*files, "pytorch_model*.bin*"], key)


def _download(identifier: str, name: str, revision: str | None, files: list[str], key: str) -> Path:
    """Return the snapshot folder of a hub id in the hub's own cache."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.constants import HF_HUB_CACHE

    try:
        return Path(snapshot_download(identifier, revision=revision, allow_patterns=files))
    except (OSError, ValueError) as error:  # every error of the hub is one of the two
        pinned = f" --revision {revision}" if revision else ""
        file = f" {files[0]}" if len(files) == 1 else ""  # the repository may hold many networks
        raise WeightsMissing(
            f"the weights of {name}, '{identifier}', are no folder and not in {HF_HUB_CACHE}, and the hub could not "
            "be reached or lacks them; with network access, run "
            f"'hf download {identifier}{file}{pinned} --local-dir DIR', then give {key}=DIR."
        ) from error


@contextmanager
def loading_errors(path: Path | None, name: str, contents: str) -> Iterator[None]:
    """Turn any error of a library that loads a folder into one sentence.

    Inside the context random numbers come from a fixed seed, and afterwards the generator is in its former state. So
    two untrained builds are equal, and a build does not change the random numbers of a run.

    Args:
        path: Folder or file that is loaded; None for an untrained build. Errors of the latter, and of a lack of memory,
            are raised as they are.
        name: Name of the network, for the message.
        contents: Contents of such a folder or file, for the message.

    Raises:
        WeightsMissing: A file is missing, is damaged, or belongs to another architecture.
    """
    for library in LIBRARY_LOGS:
        library.disable_progress_bar()  # they would write one bar per network into every log
    with torch.random.fork_rng(devices=[]), _quiet_libraries():
        torch.default_generator.manual_seed(0)  # torch.manual_seed would also seed the GPUs
        try:
            yield
        except Exception as error:
            if path is None or explain_shortage(error):
                raise
            raise WeightsMissing(
                f"the weights of {name} cannot be read from '{path}' ({_cause(error)}); "
                f"the {'file' if path.is_file() else 'folder'} must hold {contents}."
            ) from error


@contextmanager
def _quiet_libraries() -> Iterator[None]:
    """Hold back the warnings of libraries: one that matters becomes an error, and the others do not help a user."""
    if console.is_verbose:
        yield
        return
    verbosity = [library.get_verbosity() for library in LIBRARY_LOGS]
    for library in LIBRARY_LOGS:
        library.set_verbosity_error()
    try:
        yield
    finally:
        for library, level in zip(LIBRARY_LOGS, verbosity, strict=True):
            library.set_verbosity(level)


def _cause(error: Exception) -> str:
    """Return a library's error as one line."""
    if isinstance(error, UnpicklingError):  # torch explains how code could be run
        return "it is damaged, or holds more than tensors"
    if isinstance(error, KeyError):
        return f"it has no entry {error}"
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return " ".join(line.strip() for line in lines[: 1 + lines[0].endswith(":")])


def load_network(model_class: Any, path: Path, **options: Any) -> nn.Module:
    """Load a network of diffusers or transformers from a folder that holds all parts of it.

    Both libraries give random numbers to weights that a folder lacks. Single weights may be missing: published models
    leave out those that no output depends on.

    Raises:
        ValueError: The folder has no weights of a whole part, because it belongs to another model.
    """
    network, report = model_class.from_pretrained(path, local_files_only=True, output_loading_info=True, **options)
    missing = set(report["missing_keys"])
    for name, part in network.named_children():
        weights = {f"{name}.{key}" for key in part.state_dict()}
        if weights and weights <= missing:
            raise ValueError(f"it has no weights for '{name}' of a {model_class.__name__}")
    return network
