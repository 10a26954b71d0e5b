"""Answers to multiple-choice questions about images, by BLIP (Li et al. 2022, arXiv:2201.12086)."""

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import AutoConfig, BlipForQuestionAnswering, BlipProcessor

from lumen.data.questions import Question
from lumen.features.pretrained import load_network

MAX_QUESTIONS_PER_PASS = 64  # each carries a copy of the features of its image


class MultipleChoiceVQA(nn.Module):
    """BLIP for visual question answering, which returns the most likely of the given choices.

    BLIP calls this inference by rank: the decoder scores every choice as a whole, and nothing is generated that would
    have to be matched to a choice. Each image is encoded once for all of its questions.

    Args:
        directory: Model and processor, as transformers saves them.
    """

    def __init__(self, directory: Path):
        super().__init__()
        name = (AutoConfig.from_pretrained(directory, local_files_only=True).architectures or ["none"])[0]
        if name != BlipForQuestionAnswering.__name__:
            raise TypeError(f"its config names {name}, not BlipForQuestionAnswering")
        network = load_network(BlipForQuestionAnswering, directory, dtype=torch.float32, weights_only=True)
        self.network = network.requires_grad_(False)
        processor = BlipProcessor.from_pretrained(directory, local_files_only=True)
        self.tokenizer, self.image_processor = processor.tokenizer, processor.image_processor
        self.eval()

    def answer(self, image: Float[Tensor, "b 3 H W"], questions: Sequence[Sequence[Question]]) -> list[list[str]]:
        """Return the most likely choice for each question about each image; images are in [-1, 1], of any size."""
        scores = self.score_choices(image, questions)
        return [
            [question.choices[int(score.argmax())] for question, score in zip(*pair, strict=True)]
            for pair in zip(questions, scores, strict=True)
        ]

    @torch.no_grad()
    def score_choices(
        self, image: Float[Tensor, "b 3 H W"], questions: Sequence[Sequence[Question]]
    ) -> list[list[Tensor]]:
        """Return for each question the log-likelihood (choices,) of each of its choices, end token included."""
        features = self.network.vision_model(self.preprocess(image)).last_hidden_state
        pairs = [(i, question) for i, group in enumerate(questions) for question in group]
        tokens = self.tokenizer([question.text for _, question in pairs], truncation=True).input_ids if pairs else []
        scores: dict[int, Tensor] = {}
        # A batch holds questions of one length: transformers 5 masks no padding in cross-attention.
        for length in sorted({len(text) for text in tokens}):
            same_length = [j for j, text in enumerate(tokens) if len(text) == length]
            for start in range(0, len(same_length), MAX_QUESTIONS_PER_PASS):
                batch = same_length[start : start + MAX_QUESTIONS_PER_PASS]
                question = torch.tensor([tokens[j] for j in batch], device=features.device)
                images, choices = [pairs[j][0] for j in batch], [pairs[j][1].choices for j in batch]
                scores |= zip(batch, self._log_likelihoods(features[images], question, choices), strict=True)
        position = iter(range(len(pairs)))
        return [[scores[next(position)] for _ in group] for group in questions]

    def preprocess(self, image: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b 3 h w"]:
        """Return images in the size, and with the mean and standard deviation, of the model's image processor."""
        processor = self.image_processor
        size = (processor.size["height"], processor.size["width"])
        image = image.float() / 2 + 0.5
        if image.shape[-2:] != size:
            image = F.interpolate(image, size, mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)
        mean, std = (image.new_tensor(x)[:, None, None] for x in (processor.image_mean, processor.image_std))
        return (image - mean) / std

    def _log_likelihoods(
        self, features: Float[Tensor, "q n c"], question: Int[Tensor, "q l"], choices: list[Sequence[str]]
    ) -> tuple[Tensor, ...]:
        """Return one tensor (choices,) per question."""
        encoded = self.network.text_encoder(input_ids=question, encoder_hidden_states=features).last_hidden_state
        counts = [len(group) for group in choices]
        question_index = torch.tensor(
            [j for j, count in enumerate(counts) for _ in range(count)], device=encoded.device
        )
        answers = [choice for group in choices for choice in group]
        inputs = self.tokenizer(answers, padding=True, return_tensors="pt").to(encoded.device)
        # The encoder's texts begin with [CLS], the decoder's with a start token of their own.
        inputs.input_ids[:, 0] = self.network.decoder_start_token_id
        logits = self.network.text_decoder(
            input_ids=inputs.input_ids,
            attention_mask=inputs.attention_mask,
            encoder_hidden_states=encoded[question_index],
        ).logits
        token = logits[:, :-1].log_softmax(-1).gather(2, inputs.input_ids[:, 1:, None])[..., 0]
        return (token * inputs.attention_mask[:, 1:]).sum(1).split(counts)
