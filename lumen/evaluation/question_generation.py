"""Generation of questions about captions by a language model, filtered for consistent answers by another model.

Source: Yushi-Hu/tifa, tifascore/question_gen_llama2.py and unifiedqa.py.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    BatchEncoding,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from lumen.core.console import announce
from lumen.core.errors import WeightsMissing
from lumen.core.files import write_json
from lumen.data.questions import normalize_caption, read_entries
from lumen.evaluation.question_filter import PROMPT, filter_consistent, parse_completion
from lumen.features.pretrained import load_network, loading_errors, resolve_transformers_weights

GENERATOR = "tifa-benchmark/llama2_tifa_question_generation"
VERIFIER = "allenai/unifiedqa-v2-t5-large-1363200"
FILES = ["*.json", "*.model", "merges.txt"]  # of the tokenizer
MAX_TOKENS = 512  # of prompt and completion


class QuestionGenerator:
    """Causal language model that was trained to write questions; beam search with 5 beams, as upstream.

    Args:
        weights: A folder or hub id.
    """

    def __init__(self, weights: str = GENERATOR, device: str = "cpu"):
        dtype = torch.float32 if device == "cpu" else torch.float16  # as upstream; a CPU is slow in half precision
        self.network, self.tokenizer = _load(weights, "writer", AutoModelForCausalLM, device, dtype)

    def complete(self, caption: str) -> str:
        """Return the completion of the prompt about a caption."""
        # The prompt contains its own start token.
        prompt = self.tokenizer(PROMPT.format(caption=caption), add_special_tokens=False, return_tensors="pt")
        length = prompt.input_ids.shape[1]
        max_length = max(MAX_TOKENS, length + MAX_TOKENS // 2)  # leaves room after a caption of a paragraph
        tokens = _generate(self.network, prompt, num_beams=5, max_length=max_length)
        return self.tokenizer.decode(tokens[0, length:], skip_special_tokens=True).split("\n\n")[0]


class AnswerVerifier:
    """Text-to-text model that answers questions about a text: UnifiedQA.

    Args:
        weights: A folder or hub id.
    """

    def __init__(self, weights: str = VERIFIER, device: str = "cpu"):
        # A T5 of this size overflows in half precision.
        self.network, self.tokenizer = _load(weights, "reader", AutoModelForSeq2SeqLM, device, torch.float32)

    def answer(self, prompts: Sequence[str]) -> list[str]:
        """Return one answer per prompt."""
        if not prompts:
            return []
        inputs = self.tokenizer(list(prompts), padding=True, return_tensors="pt")
        tokens = _generate(self.network, inputs, max_new_tokens=30)
        return self.tokenizer.batch_decode(tokens, skip_special_tokens=True)


def generate_questions(
    captions: dict[str, str], path: Path, writer: str | None, reader: str | None, device: str
) -> int:
    """Add to a file the questions about captions that it has none about, and write it after each caption.

    Args:
        captions: Captions by image id.
        path: File in TIFA's format; it is created if it does not exist.
        writer: Folder or hub id of the generator; None is upstream's.
        reader: Folder or hub id of the verifier; None is upstream's.

    Returns:
        Number of captions that now have questions; no question about the others was consistent.
    """
    items = read_entries(path) if path.exists() else []
    known = {normalize_caption(entry["caption"]) for entry in items}
    missing = {image_id: caption for image_id, caption in captions.items() if normalize_caption(caption) not in known}
    if missing:
        generator, verifier = QuestionGenerator(writer or GENERATOR, device), AnswerVerifier(reader or VERIFIER, device)
    for n, (image_id, caption) in enumerate(missing.items(), 1):
        if normalize_caption(caption) not in known:  # two images may share a caption
            questions = filter_consistent(parse_completion(generator.complete(caption)), caption, verifier.answer)
            items += [{"id": image_id, "caption": caption} | question for question in questions]
            known |= {normalize_caption(caption)} if questions else set()
            write_json(path, items)
        if n % 10 == 0 or n == len(missing):
            announce(f"{n} of {len(missing)} captions")
    return sum(normalize_caption(caption) in known for caption in captions.values())


@torch.no_grad()
def _generate(network: PreTrainedModel, inputs: BatchEncoding, **options: int) -> Int[Tensor, "b l"]:
    ids, mask = (inputs[key].to(network.device) for key in ("input_ids", "attention_mask"))
    return network.generate(input_ids=ids, attention_mask=mask, do_sample=False, **options)


def _load(
    weights: str, name: str, model_class: type, device: str, dtype: torch.dtype
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a language model and its tokenizer.

    Args:
        name: The model's flag, for messages.

    Raises:
        WeightsMissing: The weights do not exist or cannot be read.
    """
    path = resolve_transformers_weights(weights, name, None, FILES)
    if path is None:
        raise WeightsMissing(f"an untrained {name} cannot write or answer questions; give {name}=FOLDER or a hub id.")
    with loading_errors(path, name, "model and tokenizer of a language model, as transformers saves them"):
        network = load_network(model_class, path, weights_only=True, dtype=dtype)
        return network.eval().to(device), AutoTokenizer.from_pretrained(path, local_files_only=True)
