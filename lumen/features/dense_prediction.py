"""Frozen networks of transformers that look at images as their model cards say."""

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import AutoConfig, AutoImageProcessor, AutoTokenizer, BaseImageProcessor, OneFormerProcessor

from lumen.core.errors import WeightsMissing
from lumen.features.pretrained import reading, transformers_folder

FILES = ["*.json", "merges.txt"]  # of the processor, and of OneFormer's tokenizer
HOLDS = "config.json, preprocessor_config.json and .safetensors, as save_pretrained writes them"


class Evaluator(nn.Module):
    """A network with its own image processor.

    Args:
        weights: "scenes", a folder or a hub id.
        name: of the part, in messages and as the folder of `scenes`.
        task: the end of the class name that can do it, such as "Segmentation".

    Raises:
        WeightsMissing: the weights are nowhere, cannot be read, or are of another task.
    """

    def __init__(self, weights: str, name: str, task: str, revision: str | None):
        super().__init__()
        path = transformers_folder(weights, name, revision, FILES)
        if path is None:
            raise WeightsMissing(f"an untrained {name} can judge nothing; give a folder, a hub id, or scenes.")
        with reading(path, name, HOLDS):
            self.network = _architecture(path, task).from_pretrained(
                path, local_files_only=True, weights_only=True, dtype=torch.float32
            )
            self.told = self.network.config.model_type == "oneformer"  # what to do, in words
            self.processor = _oneformer(path, self.network) if self.told else _pictures(path)

    def forward(self, images: Float[Tensor, "b 3 H W"]):
        """The network's output on images in [-1, 1], rounded to bytes as a file would hold them."""
        pixels = ((images + 1) * 127.5).round().clamp(0, 255).byte()
        words = {"task_inputs": ["semantic"] * len(pixels)} if self.told else {}
        return self.network(**self.processor(images=list(pixels), **words, return_tensors="pt").to(images.device))

    def depth(self, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b H W"]:
        """What a depth estimator gives of images in [-1, 1], at their size; of most it is an inverse depth."""
        found = self.processor.post_process_depth_estimation(self(images), [tuple(images.shape[-2:])] * len(images))
        return torch.stack([each["predicted_depth"] for each in found])


def _architecture(path: Path, task: str) -> type[nn.Module]:
    import transformers

    name = (AutoConfig.from_pretrained(path, local_files_only=True).architectures or ["none"])[0]
    if not name.endswith(task):
        raise TypeError(f"its config names {name}, no class whose name ends in {task}")
    return getattr(transformers, name)


def _pictures(path: Path, **changed: None) -> BaseImageProcessor:
    return AutoImageProcessor.from_pretrained(path, local_files_only=True, **changed)


def _oneformer(path: Path, network: nn.Module) -> OneFormerProcessor:
    """Without the list of classes that it would fetch from the hub: only other tasks than ours look at it."""
    tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
    pictures = _pictures(path, class_info_file=None)
    return OneFormerProcessor(pictures, tokenizer, task_seq_length=network.config.task_seq_len)
