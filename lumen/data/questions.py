"""Questions about captions, and the files they are kept in (Hu et al. 2023, TIFA, arXiv:2303.11897)."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lumen.core.errors import BadSample, DatasetMissing

# What a question is about. The first are upstream's element types; the last are those of the rendered scenes.
KINDS = ("animal/human", "object", "food", "activity", "attribute", "counting", "color", "material", "spatial",
         "location", "shape", "other", "presence", "colour", "ground", "sky")  # fmt: skip


@dataclass(frozen=True)
class Question:
    """A question with one right answer among its choices; `kind` is one of KINDS."""

    text: str
    choices: tuple[str, ...]
    answer: str
    kind: str


def said(caption: str) -> str:
    """A caption as it is compared: published ones differ in spaces."""
    return " ".join(caption.split())


def entries(path: Path) -> list[dict[str, Any]]:
    """The questions of a file as they stand there: of TIFA's own, or of one that `lumen questions` wrote.

    Raises:
        DatasetMissing: there is no such file.
        BadSample: it is not in the format of tifa_v1.0_question_answers.json.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DatasetMissing(f"there is no file of questions {path}; `lumen questions` writes one.") from None
    except (OSError, ValueError) as error:
        raise BadSample(f"the questions of {path} cannot be read ({error}); copy or write the file again.") from None
    if not (isinstance(found, list) and all(map(_is_question, found))):
        raise BadSample(
            f"{path} is no list of questions, each with caption, question, choices and answer; "
            "give a file in the format of tifa_v1.0_question_answers.json."
        )
    return found


def by_caption(found: Sequence[dict[str, Any]]) -> dict[str, tuple[Question, ...]]:
    """Entries of a file as questions about each caption, none twice.

    A question is about a caption, whoever's image it was: neither `id` nor `coco_val_id` is looked at.
    """
    asked: dict[str, dict[str, Question]] = {}
    for one in found:
        kind = one.get("element_type")
        question = Question(one["question"], tuple(one["choices"]), one["answer"], kind if kind in KINDS else "other")
        asked.setdefault(said(one["caption"]), {}).setdefault(question.text, question)
    return {caption: tuple(questions.values()) for caption, questions in asked.items()}


def _is_question(one: Any) -> bool:
    texts = ("caption", "question", "answer")
    if not (isinstance(one, dict) and all(isinstance(one.get(key), str) for key in texts)):
        return False
    choices = one.get("choices")
    return isinstance(choices, list) and bool(choices) and all(isinstance(choice, str) for choice in choices)
