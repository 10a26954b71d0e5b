"""Frozen segmentation and depth models of transformers, with the preprocessing of their model cards."""

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import AutoConfig, AutoImageProcessor, AutoTokenizer, BaseImageProcessor, OneFormerProcessor

from lumen.core.errors import WeightsMissing
from lumen.features.pretrained import load_network, loading_errors, resolve_transformers_weights

FILES = ["*.json", "merges.txt"]  # of the image processor, and of OneFormer's tokenizer
# By the end of the name of a class: the method of its processor that makes the prediction.
POST_PROCESSORS = {
    "Segmentation": "post_process_semantic_segmentation",
    "DepthEstimation": "post_process_depth_estimation",
}
CONTENTS = "config.json, preprocessor_config.json and .safetensors, as save_pretrained writes them"


class DensePredictor(nn.Module):
    """Frozen network for dense prediction, with its own image processor.

    Args:
        weights: "scenes", a folder or a hub id.
        name: Name of the network, in messages and as the folder of "scenes".
        task: End of the name of a class that does the task, a key of `POST_PROCESSORS`.
        revision: Commit, tag or branch of a hub id; None is its main branch.

    Raises:
        WeightsMissing: The weights do not exist, cannot be read, or belong to another task.
    """

    def __init__(self, weights: str, name: str, task: str, revision: str | None):
        super().__init__()
        path = resolve_transformers_weights(weights, name, revision, FILES)
        if path is None:
            raise WeightsMissing(f"an untrained {name} predicts nothing useful; give a folder, a hub id, or scenes.")
        with loading_errors(path, name, CONTENTS):
            self.network = load_network(_model_class(path, task), path, weights_only=True, dtype=torch.float32)
            self.needs_task_prompt = self.network.config.model_type == "oneformer"
            if self.needs_task_prompt:
                self.processor = _oneformer_processor(path, self.network)
            else:
                self.processor = _image_processor(path)
            if not hasattr(self.processor, POST_PROCESSORS[task]):
                raise TypeError(f"its processor {type(self.processor).__name__} has no {POST_PROCESSORS[task]}")

    def forward(self, images: Float[Tensor, "b 3 H W"]):
        """Return the network's output on images in [-1, 1], rounded to bytes as in an image file."""
        pixels = ((images + 1) * 127.5).round().clamp(0, 255).byte()
        prompts = {"task_inputs": ["semantic"] * len(pixels)} if self.needs_task_prompt else {}
        return self.network(**self.processor(images=list(pixels), **prompts, return_tensors="pt").to(images.device))

    def depth(self, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b H W"]:
        """Return a depth model's prediction for images in [-1, 1], at their size; most models predict inverse depth."""
        sizes = [tuple(images.shape[-2:])] * len(images)
        predictions = self.processor.post_process_depth_estimation(self(images), sizes)
        return torch.stack([prediction["predicted_depth"] for prediction in predictions])


def _model_class(path: Path, task: str) -> type[nn.Module]:
    import transformers

    name = (AutoConfig.from_pretrained(path, local_files_only=True).architectures or ["none"])[0]
    if not name.endswith(task):
        raise TypeError(f"its config names {name}, not a class whose name ends in {task}")
    return getattr(transformers, name)


def _image_processor(path: Path, **options: None) -> BaseImageProcessor:
    return AutoImageProcessor.from_pretrained(path, local_files_only=True, **options)


def _oneformer_processor(path: Path, network: nn.Module) -> OneFormerProcessor:
    """Return OneFormer's processor without its class list, a download that semantic segmentation does not need."""
    tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
    images = _image_processor(path, class_info_file=None)
    return OneFormerProcessor(images, tokenizer, task_seq_length=network.config.task_seq_len)
