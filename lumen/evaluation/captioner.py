"""Captioner: a vision-language model of transformers that describes images, of the kinds in `KINDS`."""

from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor
from transformers import AutoModelForImageTextToText, AutoProcessor, BatchFeature

from lumen.core.errors import BadConfig, WeightsMissing
from lumen.core.readers import read_json
from lumen.features.pretrained import load_network, loading_errors, resolve_transformers_weights

FILES = ["*.json", "*.txt", "*.model", "*.jinja"]  # of the processor
CODE_KEY = "auto_map"  # names the classes of a repository that brings code
CODE_FILES = ("config.json", "preprocessor_config.json", "processor_config.json", "tokenizer_config.json")


class Kind(NamedTuple):
    """Architecture of captioners.

    Attributes:
        prompt: Prompt unless the user gives another one.
        prompts: The only prompts that are possible; none for any text.
        is_chat: Whether the prompt is a message, which the output repeats.
    """

    prompt: str
    prompts: tuple[str, ...] = ()
    is_chat: bool = False


FLORENCE_TASKS = ("<CAPTION>", "<DETAILED_CAPTION>", "<MORE_DETAILED_CAPTION>")
SENTENCE = "Describe this image in one sentence."
# By transformers' `model_type`.
KINDS = {
    "blip": Kind(""),
    "florence2": Kind("<DETAILED_CAPTION>", FLORENCE_TASKS),
    "qwen2_vl": Kind(SENTENCE, is_chat=True),
    "qwen2_5_vl": Kind(SENTENCE, is_chat=True),
    "qwen3_vl": Kind(SENTENCE, is_chat=True),
}


class CaptionModel(NamedTuple):
    """Model on disk that can write captions.

    Attributes:
        path: Its folder.
        commit: Commit of a hub id.
        prompt: Beginning of the caption for BLIP, one of Florence-2's tasks, or the request to a Qwen-VL.
    """

    path: Path
    commit: str | None
    kind: Kind
    prompt: str


def find_model(weights: str, revision: str | None = None, prompt: str | None = None) -> CaptionModel:
    """Return a model of a folder or hub id of transformers, which is downloaded unless it is cached, but not loaded.

    Args:
        prompt: None is the kind's own.

    Raises:
        WeightsMissing: It is nowhere, brings code, or is of another kind.
        BadConfig: The kind does not know the prompt.
    """
    path = resolve_transformers_weights(weights, "captioner", revision, FILES, key="model")
    if path is None:
        raise WeightsMissing("an untrained model writes no captions; give model=FOLDER or a hub id.")
    kind = KINDS[_verify_kind(weights, path)]
    prompt = kind.prompt if prompt is None else prompt
    if kind.prompts and prompt not in kind.prompts:
        raise BadConfig(f"prompt cannot be {prompt!r} for {weights}; choose from {', '.join(kind.prompts)}.")
    return CaptionModel(path, path.name if path.parent.name == "snapshots" else None, kind, prompt)


class Captioner:
    """Model that writes a caption for each image, the most likely words one after the other.

    Args:
        max_tokens: Most tokens of a caption.

    Raises:
        WeightsMissing: The weights cannot be read.
    """

    def __init__(self, model: CaptionModel, max_tokens: int = 64, device: str = "cpu"):
        self.kind, self.prompt, self.max_tokens, self.device = model.kind, model.prompt, max_tokens, device
        path, dtype = model.path, torch.float32
        if device != "cpu":
            dtype = torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
        with loading_errors(path, "captioner", "model and processor of a captioner, as transformers saves them"):
            network = load_network(AutoModelForImageTextToText, path, dtype=dtype, weights_only=True)
            self.network = network.requires_grad_(False).eval().to(device)
            self.processor = AutoProcessor.from_pretrained(path, local_files_only=True, trust_remote_code=False)
        if self.kind.is_chat:
            self.processor.tokenizer.padding_side = "left"  # the caption follows the prompt without a gap

    @torch.no_grad()
    def caption(self, images: list[Image.Image]) -> list[str]:
        """Return a caption for each image, with single spaces."""
        inputs = self._preprocess(images).to(self.device)
        floats = {key: x.to(self.network.dtype) for key, x in inputs.items() if _is_float(x)}
        tokens = self.network.generate(**{**inputs, **floats}, max_new_tokens=self.max_tokens, do_sample=False)
        if self.kind.is_chat:
            tokens = tokens[:, inputs["input_ids"].shape[1] :]
        texts = self.processor.batch_decode(tokens, skip_special_tokens=True)
        return [" ".join(text.split()) for text in texts]

    def _preprocess(self, images: list[Image.Image]) -> BatchFeature:
        text = [self.prompt] * len(images) if self.prompt else None
        if self.kind.is_chat:
            content = [{"type": "image"}, {"type": "text", "text": self.prompt}]
            message = [{"role": "user", "content": content}]
            template = self.processor.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
            text = [template] * len(images)
        return self.processor(images=images, text=text, padding=True, return_tensors="pt")


def _verify_kind(weights: str, path: Path) -> str:
    """Return the kind of a model.

    Raises:
        WeightsMissing: It brings code, or is of no kind that is known.
    """
    remedy = "give model=FOLDER as transformers saves it, or a hub id"
    contents = {name: read_json(path / name, remedy) for name in CODE_FILES if (path / name).exists()}
    kind = contents.get("config.json", {}).get("model_type")
    kinds = f"a model of a kind that transformers has: {', '.join(KINDS)}"
    if any(CODE_KEY in content for content in contents.values()):
        raise WeightsMissing(f"{weights} brings code of its own, which is not run; give {kinds}.")
    if kind not in KINDS:
        raise WeightsMissing(f"{weights} is a model of the kind {kind!r}, which writes no captions here; give {kinds}.")
    return kind


def _is_float(value: object) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()
