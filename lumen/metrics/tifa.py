"""TIFA: are questions about the caption answered rightly by the sample? (Hu et al. 2023, arXiv:2303.11897)"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lumen.answers import Answerer
from lumen.contracts import Batch, Metric
from lumen.errors import BadConfig, WeightsMissing
from lumen.registry import metrics
from lumen.weights import folder, reading

FILES = ["*.json", "vocab.txt", "*.safetensors"]


@metrics.register
class Tifa(Metric):
    """The share of right answers per sample, the mean over samples and images: upstream's tifa_score.

    Args:
        vqa: a folder or hub id of a transformers BLIP for question answering, or "scenes".
        questions: of each image of a batch, with `text`, `choices` and `answer`; None where the data set has none.

    Raises:
        BadConfig: there is nothing to ask.
    """

    higher_is_better = True

    def __init__(
        self,
        vqa: str = "Salesforce/blip-vqa-capfilt-large",
        revision: str | None = None,
        *,
        questions: Callable[[Batch], list[Sequence[Any]]] | None,
    ):
        if questions is None:
            raise BadConfig("metrics: this data set has no questions for tifa to ask; leave tifa out of metrics.")
        path = folder(vqa, "vqa", None, revision, FILES)
        if path is None:
            raise WeightsMissing("an untrained vqa can judge nothing; give a folder, a hub id, or scenes.")
        with reading(path, "vqa", "model and processor of a BLIP for question answering, as transformers saves them"):
            super().__init__(Answerer(path))
        self.questions = questions

    def each(self, batch: Batch, painted: Float[Tensor, "b n 3 H W"]) -> Float[Tensor, " b"]:
        asked = self.questions(batch)
        right = torch.zeros(painted.shape[:2], device=painted.device)
        for k, sample in enumerate(painted.unbind(1)):
            for i, answers in enumerate(self.evaluator.answer(sample, asked)):
                hits = [said == question.answer for said, question in zip(answers, asked[i], strict=True)]
                right[i, k] = sum(hits) / len(hits)
        return right.mean(1)

    @staticmethod
    def figure(rows: Float[Tensor, " b"]) -> Float[Tensor, ""]:
        return rows.double().mean()
