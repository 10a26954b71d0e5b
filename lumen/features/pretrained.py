"""Where a network's weights come from: its model card, another hub id, a folder, the package, or nowhere."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from transformers.utils import logging

from lumen.core.errors import WeightsMissing

SCENES = Path(__file__).parents[1] / "scenes" / "weights"  # networks trained on the offline world


def outlined() -> bool:
    """Whether architectures alone are asked for, as under `torch.device("meta")`: none is fetched for them."""
    return torch.get_default_device().type == "meta"


def folder(weights: str, name: str, card: str | None, revision: str | None, files: list[str]) -> Path | None:
    """The folder that holds the weights of the part `name`, fetched from the hub if it must be.

    Args:
        weights: "published" (the hub id `card`), "none" (untrained: the answer is None), "scenes"
            (the package's own), a local folder, or another hub id (None too where architectures alone are asked for).
        revision: commit, tag or branch of a hub id; None is its main branch.
        files: the patterns of the files to fetch, so that other formats stay on the hub.

    Raises:
        WeightsMissing: they are nowhere; the message holds the command that fetches them.
    """
    if weights == "none":
        return None
    if weights == "published" and card is None:
        raise WeightsMissing(
            f"the tiny {name} has no published weights: give weights=none (untrained) or weights=FOLDER."
        )
    if weights == "scenes":
        weights = str(SCENES / name)
    if Path(weights).expanduser().is_dir():
        return Path(weights).expanduser()
    identifier = card if weights == "published" else weights
    if identifier.count("/") != 1 or identifier[0] in "./~":
        raise WeightsMissing(
            f"the weights of {name} are not in '{weights}', which is no folder; "
            "give a folder that exists, a hub id such as org/model, published or none."
        )
    return None if outlined() else _fetch(identifier, name, revision, files)


def transformers_folder(weights: str, name: str, revision: str | None, files: list[str]) -> Path | None:
    """As `folder`, for a model of transformers: with its .safetensors, or where the hub has none its pytorch_model.bin.

    The latter is read with weights_only=True, by which no code in it is run.
    """
    path = folder(weights, name, None, revision, [*files, "*.safetensors"])
    if path is None or any(path.glob("*.safetensors")):
        return path
    return folder(weights, name, None, revision, [*files, "pytorch_model*.bin*"])


def _fetch(identifier: str, name: str, revision: str | None, files: list[str]) -> Path:
    """The files of a hub id in the hub's own cache, one snapshot folder per revision."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.constants import HF_HUB_CACHE

    try:
        return Path(snapshot_download(identifier, revision=revision, allow_patterns=files))
    except (OSError, ValueError) as error:  # the hub's errors are all one or the other
        pinned = f" --revision {revision}" if revision else ""
        file = f" {files[0]}" if len(files) == 1 else ""  # of many in one repository
        raise WeightsMissing(
            f"the weights of {name}, '{identifier}', are not in {HF_HUB_CACHE} and the hub could not be reached "
            f"or lacks them; where there is a network, run 'hf download {identifier}{file}{pinned} --local-dir DIR', "
            "then give weights=DIR."
        ) from error


@contextmanager
def reading(path: Path | None, name: str, holds: str) -> Iterator[None]:
    """Turns whatever a library says of a folder that it cannot load into one sentence.

    Every load and every untrained build draws from a seed of its own: two builds are equal, and
    the random numbers of the run are the same with and without them.

    Raises:
        WeightsMissing: the folder lacks a file, or a file is damaged or of another architecture.
    """
    logging.disable_progress_bar()  # of transformers: a bar per network in every log
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)  # torch.manual_seed would reseed the GPUs as well
        try:
            yield
        except Exception as error:
            if path is None:
                raise
            cause = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise WeightsMissing(
                f"the weights of {name} cannot be read from '{path}' ({cause}); the folder must hold {holds}."
            ) from error
