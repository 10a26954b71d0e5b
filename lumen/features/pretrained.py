"""Pretrained weights: resolution of a config value to a folder, and errors of loading the folder."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from transformers.utils import logging

from lumen.core.errors import WeightsMissing

SCENES_WEIGHTS = Path(__file__).parents[1] / "scenes" / "weights"  # networks trained on the offline world


def building_on_meta() -> bool:
    """Return whether networks are built under `torch.device("meta")`: as architectures, without weights."""
    return torch.get_default_device().type == "meta"


def resolve_weights(weights: str, name: str, hub_id: str | None, revision: str | None, files: list[str]) -> Path | None:
    """Return the folder that holds a network's weights. Weights on the hub are downloaded unless they are cached.

    Args:
        weights: "published" (`hub_id`), "none" (untrained), "scenes" (the package's own), a local folder, or another
            hub id.
        name: Name of the network, in messages and as the folder of "scenes".
        hub_id: Hub id of the published weights; None if there are none.
        revision: Commit, tag or branch of a hub id; None is its main branch.
        files: Patterns of the files to download, so that other formats stay on the hub.

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
        weights = str(SCENES_WEIGHTS / name)
    if Path(weights).expanduser().is_dir():
        return Path(weights).expanduser()
    identifier = hub_id if weights == "published" else weights
    if identifier.count("/") != 1 or identifier[0] in "./~":
        raise WeightsMissing(
            f"the weights of {name} are not in '{weights}', which is not a folder; "
            "give an existing folder, a hub id such as org/model, published or none."
        )
    return None if building_on_meta() else _download(identifier, name, revision, files)


def resolve_transformers_weights(weights: str, name: str, revision: str | None, files: list[str]) -> Path | None:
    """Return the folder of a transformers model, as `resolve_weights` does.

    The folder holds .safetensors, or pytorch_model.bin if the hub has no .safetensors. The latter must be loaded with
    weights_only=True, so that no code in it runs.
    """
    path = resolve_weights(weights, name, None, revision, [*files, "*.safetensors"])
    if path is None or any(path.glob("*.safetensors")):
        return path
    return resolve_weights(weights, name, None, revision, [*files, "pytorch_model*.bin*"])


def _download(identifier: str, name: str, revision: str | None, files: list[str]) -> Path:
    """Return the snapshot folder of a hub id in the hub's own cache."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.constants import HF_HUB_CACHE

    try:
        return Path(snapshot_download(identifier, revision=revision, allow_patterns=files))
    except (OSError, ValueError) as error:  # every error of the hub is one of the two
        pinned = f" --revision {revision}" if revision else ""
        file = f" {files[0]}" if len(files) == 1 else ""  # the repository may hold many networks
        raise WeightsMissing(
            f"the weights of {name}, '{identifier}', are not in {HF_HUB_CACHE}, and the hub could not be reached "
            f"or lacks them; with network access, run 'hf download {identifier}{file}{pinned} --local-dir DIR', "
            "then give weights=DIR."
        ) from error


@contextmanager
def loading_errors(path: Path | None, name: str, contents: str) -> Iterator[None]:
    """Turn any error of a library that loads a folder into one sentence.

    Inside the context random numbers come from a fixed seed, and afterwards the generator is in its former state. So
    two untrained builds are equal, and a build does not change the random numbers of a run.

    Args:
        path: Folder that is loaded; None for an untrained build, whose errors are raised as they are.
        name: Name of the network, for the message.
        contents: Files that the folder must hold, for the message.

    Raises:
        WeightsMissing: A file is missing, is damaged, or belongs to another architecture.
    """
    logging.disable_progress_bar()  # transformers would write one bar per network into every log
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)  # torch.manual_seed would also seed the GPUs
        try:
            yield
        except Exception as error:
            if path is None:
                raise
            cause = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise WeightsMissing(
                f"the weights of {name} cannot be read from '{path}' ({cause}); the folder must hold {contents}."
            ) from error
