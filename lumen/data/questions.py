"""Questions about captions, and their files (TIFA, Hu et al. 2023, arXiv:2303.11897)."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lumen.core.errors import BadSample, DatasetMissing
from lumen.data.readers import read_json

# Subjects of questions: first TIFA's element types, then those of the rendered scenes.
KINDS = ("animal/human", "object", "food", "activity", "attribute", "counting", "color", "material", "spatial",
         "location", "shape", "other", "presence", "colour", "ground", "sky")  # fmt: skip


@dataclass(frozen=True)
class Question:
    """Multiple-choice question with one right answer.

    The name of this class and of its fields is part of the hash of an evaluation protocol.

    Attributes:
        text: The question.
        choices: Possible answers.
        answer: Right answer, one of the choices.
        kind: Subject, one of `KINDS`.
    """

    text: str
    choices: tuple[str, ...]
    answer: str
    kind: str


def normalize_caption(caption: str) -> str:
    """Return a caption with single spaces: the same caption is published with different spaces."""
    return " ".join(caption.split())


def read_entries(path: Path) -> list[dict[str, Any]]:
    """Return the entries of a questions file, TIFA's own or one that `lumen questions` wrote.

    Raises:
        DatasetMissing: There is no such file.
        BadSample: The file does not have the format of tifa_v1.0_question_answers.json.
    """
    if not path.exists():
        raise DatasetMissing(f"there is no questions file {path}; `lumen questions` writes one.")
    entries = read_json(path)
    if not (isinstance(entries, list) and all(map(_is_entry, entries))):
        raise BadSample(
            f"{path} is not a list of entries with caption, question, choices and answer; "
            "give a file in the format of tifa_v1.0_question_answers.json."
        )
    return entries


def group_by_caption(entries: Sequence[dict[str, Any]]) -> dict[str, tuple[Question, ...]]:
    """Return the distinct questions about each normalised caption.

    A question belongs to a caption whatever image the caption describes: `id` and `coco_val_id` are ignored.
    """
    questions: dict[str, dict[str, Question]] = {}
    for entry in entries:
        kind = entry.get("element_type")
        kind = kind if kind in KINDS else "other"
        question = Question(entry["question"], tuple(entry["choices"]), entry["answer"], kind)
        questions.setdefault(normalize_caption(entry["caption"]), {}).setdefault(question.text, question)
    return {caption: tuple(by_text.values()) for caption, by_text in questions.items()}


def _is_entry(entry: Any) -> bool:
    keys = ("caption", "question", "answer")
    if not (isinstance(entry, dict) and all(isinstance(entry.get(key), str) for key in keys)):
        return False
    choices = entry.get("choices")
    return isinstance(choices, list) and bool(choices) and all(isinstance(choice, str) for choice in choices)
