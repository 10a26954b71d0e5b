"""TIFA: are questions about the caption answered rightly by the sample? (Hu et al. 2023, arXiv:2303.11897)"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from lumen.core.errors import BadConfig, WeightsMissing
from lumen.core.interfaces import Batch, Metric
from lumen.core.registry import metrics
from lumen.data.questions import KINDS, Question
from lumen.evaluation.vqa import Answerer
from lumen.features.pretrained import reading, transformers_folder

FILES = ["*.json", "vocab.txt"]


@metrics.register
class Tifa(Metric):
    """The share of right answers per sample, the mean over samples and images: upstream's tifa_score.

    Images that nothing is asked about do not count. The answer is the choice that BLIP holds most likely, where
    upstream takes the choice nearest to a free answer.

    Args:
        vqa: a folder or hub id of a transformers BLIP for question answering, or "scenes".
        questions: about the caption of each image of a batch; None where nothing is asked about any.

    Raises:
        BadConfig: there is nothing to ask.

    Source: Yushi-Hu/tifa, tifascore/tifa_score.py.
    """

    higher_is_better = True

    def __init__(
        self,
        vqa: str = "Salesforce/blip-vqa-capfilt-large",
        revision: str | None = None,
        *,
        questions: Callable[[Batch], list[Sequence[Question]]] | None,
    ):
        if questions is None:
            raise BadConfig(
                "metrics: there are no questions for tifa about the captions of the measured images; name a file with "
                "measure.questions=FILE, which `lumen questions` writes, or leave tifa out of metrics."
            )
        path = transformers_folder(vqa, "vqa", revision, FILES)
        if path is None:
            raise WeightsMissing("an untrained vqa can judge nothing; give a folder, a hub id, or scenes.")
        with reading(path, "vqa", "model and processor of a BLIP for question answering, as transformers saves them"):
            super().__init__(Answerer(path))
        self.questions = questions

    def per_image(self, batch: Batch, generated: Float[Tensor, "b n 3 H W"]) -> Float[Tensor, "b 2 kinds"]:
        """Of each kind of question, how many are answered rightly, as a mean over samples, and how many there are."""
        asked = self.questions(batch)
        scores = torch.zeros(len(asked), 2, len(KINDS))
        some = [i for i, questions in enumerate(asked) if questions]
        for sample in generated[some].unbind(1) if some else ():
            for i, answers in zip(some, self.evaluator.answer(sample, [asked[i] for i in some]), strict=True):
                for said, question in zip(answers, asked[i], strict=True):
                    scores[i, :, KINDS.index(question.kind)] += torch.tensor([said == question.answer, 1.0])
        return (scores / generated.shape[1]).to(generated.device)

    @staticmethod
    def aggregate(scores: Float[Tensor, "b 2 kinds"]) -> Float[Tensor, ""]:
        right, asked = scores.double().sum(2).unbind(1)
        return (right / asked).nanmean()

    def breakdown(self, scores: Float[Tensor, "b 2 kinds"]) -> dict[str, Float[Tensor, ""]]:
        """The share of right answers to all questions of a kind, whatever their image: upstream's accuracy_by_type."""
        right, asked = scores.double().sum(0)
        return {kind.replace("/", " or "): right[k] / asked[k] for k, kind in enumerate(KINDS) if asked[k]}

    @classmethod
    def bootstrap_resamples(cls, scores: Float[Tensor, "b 2 kinds"]) -> Float[Tensor, " draws"]:
        """Of the images that anything is asked about: a draw might have none of them."""
        return super().bootstrap_resamples(scores[scores[:, 1].sum(1) > 0])
