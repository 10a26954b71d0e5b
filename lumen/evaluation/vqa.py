"""Answers to multiple-choice questions about images, by a BLIP (Li et al. 2022, arXiv:2201.12086)."""

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import BlipForQuestionAnswering, BlipProcessor

from lumen.data.questions import Question

CHUNK = 64  # questions at a time: each carries a copy of what was seen of its image


class Answerer(nn.Module):
    """Gives the choice that BLIP holds most likely; `folder` has model and processor as transformers saves them.

    BLIP calls this inference by rank: the decoder scores every choice as a whole, and nothing is generated that would
    have to be matched to one. The image is encoded once for all of its questions.
    """

    def __init__(self, folder: Path):
        super().__init__()
        self.network = BlipForQuestionAnswering.from_pretrained(
            folder, dtype=torch.float32, weights_only=True, local_files_only=True
        ).requires_grad_(False)
        processor = BlipProcessor.from_pretrained(folder, local_files_only=True)
        self.tokenizer, self.picture = processor.tokenizer, processor.image_processor
        self.eval()

    def answer(self, image: Float[Tensor, "b 3 H W"], questions: Sequence[Sequence[Question]]) -> list[list[str]]:
        """The chosen answer to each question about each image; images in [-1, 1], of any size."""
        scores = self.scores(image, questions)
        pairs = [zip(asked, some, strict=True) for asked, some in zip(questions, scores, strict=True)]
        return [[q.choices[int(s.argmax())] for q, s in some] for some in pairs]

    @torch.no_grad()
    def scores(self, image: Float[Tensor, "b 3 H W"], questions: Sequence[Sequence[Question]]) -> list[list[Tensor]]:
        """For each question the log-likelihood of each of its choices, its end included: (choices,)."""
        seen = self.network.vision_model(self.pixels(image)).last_hidden_state
        flat = [(i, question) for i, some in enumerate(questions) for question in some]
        tokens = self.tokenizer([question.text for _, question in flat], truncation=True).input_ids if flat else []
        found: dict[int, Tensor] = {}
        # Only questions of one length together: transformers 5 gives cross-attention no mask, so padding would be read.
        for length in sorted({len(each) for each in tokens}):
            alike = [j for j, each in enumerate(tokens) if len(each) == length]
            for some in (alike[start : start + CHUNK] for start in range(0, len(alike), CHUNK)):
                asked = torch.tensor([tokens[j] for j in some], device=seen.device)
                ranked = self._ranked(seen[[flat[j][0] for j in some]], asked, [flat[j][1].choices for j in some])
                found |= zip(some, ranked, strict=True)
        rest = iter(range(len(flat)))
        return [[found[next(rest)] for _ in some] for some in questions]

    def pixels(self, image: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b 3 h w"]:
        """The image in the size and with the mean and deviation that the folder names."""
        size = (self.picture.size["height"], self.picture.size["width"])
        image = image.float() / 2 + 0.5
        if image.shape[-2:] != size:
            image = F.interpolate(image, size, mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)
        mean, std = (image.new_tensor(x)[:, None, None] for x in (self.picture.image_mean, self.picture.image_std))
        return (image - mean) / std

    def _ranked(
        self, seen: Float[Tensor, "q n c"], asked: Int[Tensor, "q l"], choices: list[Sequence[str]]
    ) -> tuple[Tensor, ...]:
        read = self.network.text_encoder(input_ids=asked, encoder_hidden_states=seen).last_hidden_state
        counts = [len(each) for each in choices]
        of = torch.tensor([j for j, count in enumerate(counts) for _ in range(count)], device=seen.device)
        flat = [choice for each in choices for choice in each]
        said = self.tokenizer(flat, padding=True, return_tensors="pt").to(seen.device)
        # [CLS] opens what the encoder reads; what the decoder says is opened by a token of its own.
        said.input_ids[:, 0] = self.network.decoder_start_token_id
        logits = self.network.text_decoder(
            input_ids=said.input_ids, attention_mask=said.attention_mask, encoder_hidden_states=read[of]
        ).logits
        token = logits[:, :-1].log_softmax(-1).gather(2, said.input_ids[:, 1:, None])[..., 0]
        return (token * said.attention_mask[:, 1:]).sum(1).split(counts)
