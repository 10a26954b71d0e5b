"""Drafts of questions: what a language model is told, what is read from its completion, which questions stand.

Prompt, form and rules are those of TIFA (Hu et al. 2023, arXiv:2303.11897), so that its models can be used.
Source: Yushi-Hu/tifa, tifascore/question_gen_llama2.py, question_filter.py and unifiedqa.py.
"""

from collections.abc import Callable, Sequence
from typing import Any

PROMPT = """<s>[INST] <<SYS>>
Given an image description, generate one or two multiple-choice questions that verifies if the image description is \
correct.
Classify each concept into a type (object, human, animal, food, activity, attribute, counting, color, material, \
spatial, location, shape, other), and then generate a question for each type.

<</SYS>>

Description: {caption} [/INST] Entities:"""
TYPES = {"human": "animal/human", "animal": "animal/human"} | {
    kind: kind
    for kind in ("object", "food", "activity", "attribute", "counting", "color", "material", "spatial", "location",
                 "shape", "other")
}  # fmt: skip
FIELDS = ("question", "choices", "answer", "element", "element_type")
HEAD = 6  # lines of a completion before its questions: entities, activities, colours, counting, others, a title
ALIKE = 0.6  # a free answer must share more of its words than this, by F1, with the right one
NUMBERS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
           "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty"]  # fmt: skip


def parsed(completion: str) -> list[dict[str, Any]]:
    """The questions of a completion in the fields of TIFA's files; what has another form is passed over."""
    found = []
    about: dict[str, Any] = {}
    question: dict[str, Any] = {}
    for line in completion.split("\n")[HEAD:]:
        mark, _, rest = line.partition(" ")
        if mark == "About":
            element, _, kind = rest.removesuffix(":").partition(" (")
            about = {"element": element, "element_type": TYPES.get(kind.partition(")")[0])}
        elif mark == "Q:":
            question["question"] = rest
        elif mark == "Choices:":
            question["choices"] = rest.split(", ")
        elif mark == "A:":
            one = question | {"answer": rest} | about
            found += [one] if all(one.get(field) for field in FIELDS) else []
            question = {}
    return found


def stand(
    drafts: list[dict[str, Any]], caption: str, answers: Callable[[Sequence[str]], list[str]]
) -> list[dict[str, Any]]:
    """The questions, none twice, that a reader of the caption answers as their writer did.

    Among the choices it must find the very answer. Asked freely, unless that is yes or no, it must give most of the
    answer's words.
    """
    once: dict[str, dict[str, Any]] = {}
    for one in drafts:
        once.setdefault(one["question"], one)
    chosen = answers([f"{text} \n {caption} \n {_lettered(one['choices'])}" for text, one in once.items()])
    found = {t: one for (t, one), choice in zip(once.items(), chosen, strict=True) if choice == one["answer"]}
    asked = [text for text, one in found.items() if one["answer"] not in ("yes", "no")]
    free = dict(zip(asked, answers([f"{text} \n {caption}" for text in asked]), strict=True))
    return [one for text, one in found.items() if text not in free or _f1(one["answer"], free[text]) > ALIKE]


def _lettered(choices: list[str]) -> str:
    return "".join(f"({letter}) {choice} " for letter, choice in zip("ABCD", choices, strict=False))


def _f1(right: str, free: str) -> float:
    """Of the words that are in one of the two answers and in the other; numbers as digits where the right one is."""
    plain = "".join(c for c in free if c.isalnum() or c.isspace()).strip().lower()
    gold, given = right.split(), plain.split()
    numbers = [str(NUMBERS.index(word)) for word in given if word in NUMBERS]
    if right.isnumeric() and len(numbers) == 1:
        given = numbers
    hits = sum(word in given for word in gold)
    wrong = sum(word not in gold for word in given)
    return 2 * hits / (hits + wrong + len(gold)) if gold else float(not given)
