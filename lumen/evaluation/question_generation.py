"""Writes questions about captions by a language model, and keeps those that a reader of the caption answers alike.

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

from lumen.core.errors import WeightsMissing
from lumen.core.files import write_json
from lumen.data.questions import entries, said
from lumen.evaluation.question_filter import PROMPT, parsed, stand
from lumen.features.pretrained import reading, transformers_folder

WRITER = "tifa-benchmark/llama2_tifa_question_generation"
READER = "allenai/unifiedqa-v2-t5-large-1363200"
FILES = ["*.json", "*.model", "merges.txt"]  # of the tokenizer
LONGEST = 512  # tokens of prompt and completion


class Writer:
    """A causal language model that was taught to write questions; beams of 5, as upstream."""

    def __init__(self, weights: str = WRITER, device: str = "cpu"):
        half = torch.float32 if device == "cpu" else torch.float16  # as upstream; a CPU is slow in it
        self.network, self.tokenizer = _loaded(weights, "writer", AutoModelForCausalLM, device, half)

    def draft(self, caption: str) -> str:
        """What it says of a caption, as text."""
        # The prompt has its opening token in it.
        asked = self.tokenizer(PROMPT.format(caption=caption), add_special_tokens=False, return_tensors="pt")
        length = asked.input_ids.shape[1]
        longest = max(LONGEST, length + LONGEST // 2)  # a caption of a paragraph is asked about, too
        found = _generated(self.network, asked, num_beams=5, max_length=longest)
        return self.tokenizer.decode(found[0, length:], skip_special_tokens=True).split("\n\n")[0]


class Reader:
    """A text-to-text model that answers questions about a text: UnifiedQA."""

    def __init__(self, weights: str = READER, device: str = "cpu"):
        # In half precision a T5 of this size overflows.
        self.network, self.tokenizer = _loaded(weights, "reader", AutoModelForSeq2SeqLM, device, torch.float32)

    def answers(self, asked: Sequence[str]) -> list[str]:
        if not asked:
            return []
        inputs = self.tokenizer(list(asked), padding=True, return_tensors="pt")
        found = _generated(self.network, inputs, max_new_tokens=30)
        return self.tokenizer.batch_decode(found, skip_special_tokens=True)


def ask(captions: dict[str, str], path: Path, writer: str | None, reader: str | None, device: str) -> int:
    """Adds to a file the questions about those captions (by id) that it has none about, caption by caption.

    Args:
        writer, reader: a folder or hub id; None is upstream's.

    Returns:
        About how many of the captions there are questions now; of the others none stood.
    """
    found = entries(path) if path.exists() else []
    known = {said(one["caption"]) for one in found}
    missing = {identifier: caption for identifier, caption in captions.items() if said(caption) not in known}
    if missing:
        writes, reads = Writer(writer or WRITER, device), Reader(reader or READER, device)
    for n, (identifier, caption) in enumerate(missing.items(), 1):
        if said(caption) not in known:  # of two images
            standing = stand(parsed(writes.draft(caption)), caption, reads.answers)
            found += [{"id": identifier, "caption": caption} | one for one in standing]
            known |= {said(caption)} if standing else set()
            write_json(path, found)
        if n % 10 == 0 or n == len(missing):
            print(f"{n} of {len(missing)} captions", flush=True)
    return sum(said(caption) in known for caption in captions.values())


@torch.no_grad()
def _generated(network: PreTrainedModel, inputs: BatchEncoding, **how: int) -> Int[Tensor, "b l"]:
    ids, mask = (inputs[key].to(network.device) for key in ("input_ids", "attention_mask"))
    return network.generate(input_ids=ids, attention_mask=mask, do_sample=False, **how)


def _loaded(
    weights: str, name: str, kind: type, device: str, dtype: torch.dtype
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    path = transformers_folder(weights, name, None, FILES)
    if path is None:
        raise WeightsMissing(f"an untrained {name} knows no questions; give {name}=FOLDER or a hub id.")
    with reading(path, name, "model and tokenizer of a language model, as transformers saves them"):
        network = kind.from_pretrained(path, local_files_only=True, weights_only=True, dtype=dtype)
        return network.eval().to(device), AutoTokenizer.from_pretrained(path, local_files_only=True)
