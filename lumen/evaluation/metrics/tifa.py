"""TIFA: share of correct VQA answers about the caption on generated images (Hu et al. 2023, arXiv:2303.11897)."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from lumen.core.errors import BadConfig, WeightsMissing
from lumen.core.interfaces import Batch, Metric
from lumen.core.registry import metrics
from lumen.data.questions import KINDS, Question
from lumen.evaluation.vqa import MultipleChoiceVQA
from lumen.features.pretrained import loading_errors, resolve_transformers_weights

FILES = ["*.json", "vocab.txt"]


@metrics.register
class Tifa(Metric):
    """Share of correct answers per sample, averaged over samples and images: upstream's tifa_score.

    Images without questions are left out. The answer is the most likely choice of BLIP; upstream takes the choice
    nearest to a free answer.

    Args:
        vqa: A folder or hub id of a transformers BLIP for question answering, or "scenes".
        questions: Function from a batch to the questions about each caption; None if there are none at all.

    Raises:
        BadConfig: There are no questions.

    Source: Yushi-Hu/tifa, tifascore/tifa_score.py.
    """

    display_name = "TIFA"
    higher_is_better = True
    evaluator_gflop = {"Salesforce/blip-vqa-capfilt-large": 305}  # with eight questions of four choices

    def __init__(
        self,
        vqa: str = "Salesforce/blip-vqa-capfilt-large",
        revision: str | None = None,
        *,
        questions: Callable[[Batch], list[Sequence[Question]]] | None,
    ):
        if questions is None:
            raise BadConfig(
                "metrics: tifa has no questions about the captions of the evaluated images; name a file with "
                "measure.questions=FILE, which `lumen questions` writes, or leave tifa out of metrics."
            )
        path = resolve_transformers_weights(vqa, "vqa", revision, FILES)
        if path is None:
            raise WeightsMissing("an untrained vqa cannot score images; give a folder, a hub id, or scenes.")
        with loading_errors(path, "vqa", "model and processor of a BLIP for question answering, saved by transformers"):
            super().__init__(MultipleChoiceVQA(path))
        self.questions = questions

    def per_sample(self, batch: Batch, generated: Float[Tensor, "b n 3 H W"]) -> Float[Tensor, "b n 2 kinds"]:
        """Return by kind of question the number of correct answers and of questions."""
        questions = self.questions(batch)
        scores = torch.zeros(len(questions), generated.shape[1], 2, len(KINDS))
        with_questions = [i for i, group in enumerate(questions) if group]
        for k, images in enumerate(generated[with_questions].unbind(1) if with_questions else ()):
            answers = self.evaluator.answer(images, [questions[i] for i in with_questions])
            for i, image_answers in zip(with_questions, answers, strict=True):
                for answer, question in zip(image_answers, questions[i], strict=True):
                    scores[i, k, :, KINDS.index(question.kind)] += torch.tensor([answer == question.answer, 1.0])
        return scores.to(generated.device)

    @staticmethod
    def combine(scores: Float[Tensor, "b n 2 kinds"]) -> Float[Tensor, "b 2 kinds"]:
        """Return the correct answers, averaged over samples, and the number of questions."""
        return scores.sum(1) / scores.shape[1]

    def columns(self, shape: tuple[int, ...]) -> list[str]:
        """Return "KIND.correct" and "KIND.questions" of every kind of question."""
        return [f"{kind}.{count}" for count in ("correct", "questions") for kind in KINDS]

    @staticmethod
    def aggregate(scores: Float[Tensor, "b 2 kinds"]) -> Float[Tensor, ""]:
        """Return the mean over images of the share of correct answers."""
        correct, count = scores.double().sum(2).unbind(1)
        return (correct / count).nanmean()

    def breakdown(self, scores: Float[Tensor, "b 2 kinds"]) -> dict[str, Float[Tensor, ""]]:
        """Return the share of correct answers to each kind of question, over all images: accuracy_by_type upstream."""
        correct, count = scores.double().sum(0)
        return {kind.replace("/", " or "): correct[k] / count[k] for k, kind in enumerate(KINDS) if count[k]}

    @classmethod
    def bootstrap_resamples(cls, scores: Float[Tensor, "b 2 kinds"]) -> Float[Tensor, " draws"]:
        """Return resamples of the images with questions: a resample of all images might hold none of them."""
        return super().bootstrap_resamples(scores[scores[:, 1].sum(1) > 0])
