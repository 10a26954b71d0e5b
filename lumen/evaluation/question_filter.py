"""Questions of a language model: prompt, parser of its completions, and filter of consistent questions.

Prompt, format and rules are those of TIFA (Hu et al. 2023, arXiv:2303.11897), so that its models can be used.
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
KIND_OF_TYPE = {"human": "animal/human", "animal": "animal/human"} | {
    kind: kind
    for kind in ("object", "food", "activity", "attribute", "counting", "color", "material", "spatial", "location",
                 "shape", "other")
}  # fmt: skip
FIELDS = ("question", "choices", "answer", "element", "element_type")
HEADER_LINES = 6  # of a completion, before its questions: entities, activities, colours, counting, others, a title
MIN_F1 = 0.6  # agreement in words of a free answer with the correct one; a question must exceed it
NUMBER_WORDS = [
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten",
    "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty",
]  # fmt: skip


def parse_completion(completion: str) -> list[dict[str, Any]]:
    """Return the questions of a completion in the fields of TIFA's files; malformed ones are left out."""
    questions = []
    about: dict[str, Any] = {}
    draft: dict[str, Any] = {}
    for line in completion.split("\n")[HEADER_LINES:]:
        mark, _, content = line.partition(" ")
        if mark == "About":
            element, _, element_type = content.removesuffix(":").partition(" (")
            about = {"element": element, "element_type": KIND_OF_TYPE.get(element_type.partition(")")[0])}
        elif mark == "Q:":
            draft["question"] = content
        elif mark == "Choices:":
            draft["choices"] = content.split(", ")
        elif mark == "A:":
            question = draft | {"answer": content} | about
            questions += [question] if all(question.get(field) for field in FIELDS) else []
            draft = {}
    return questions


def filter_consistent(
    questions: list[dict[str, Any]], caption: str, answer: Callable[[Sequence[str]], list[str]]
) -> list[dict[str, Any]]:
    """Return the questions, without duplicates, that a model answers from the caption as they say.

    Given the choices, it must return the exact answer. Without choices, unless the answer is yes or no, it must return
    most of the answer's words.

    Args:
        answer: Function from prompts to answers of a text-to-text model.
    """
    unique: dict[str, dict[str, Any]] = {}
    for question in questions:
        unique.setdefault(question["question"], question)
    prompts = [f"{text} \n {caption} \n {_format_choices(q['choices'])}" for text, q in unique.items()]
    answers = zip(unique.items(), answer(prompts), strict=True)
    correct = {text: question for (text, question), choice in answers if choice == question["answer"]}
    open_ended = [text for text, question in correct.items() if question["answer"] not in ("yes", "no")]
    free = dict(zip(open_ended, answer([f"{text} \n {caption}" for text in open_ended]), strict=True))
    return [q for text, q in correct.items() if text not in free or _word_f1(q["answer"], free[text]) > MIN_F1]


def _format_choices(choices: list[str]) -> str:
    return "".join(f"({letter}) {choice} " for letter, choice in zip("ABCD", choices, strict=False))


def _word_f1(correct: str, free: str) -> float:
    """Return the F1 score of the words of a free answer; number words count as digits if the correct answer is one."""
    plain = "".join(c for c in free if c.isalnum() or c.isspace()).strip().lower()
    target, prediction = correct.split(), plain.split()
    numbers = [str(NUMBER_WORDS.index(word)) for word in prediction if word in NUMBER_WORDS]
    if correct.isnumeric() and len(numbers) == 1:
        prediction = numbers
    hits = sum(word in prediction for word in target)
    wrong = sum(word not in target for word in prediction)
    return 2 * hits / (hits + wrong + len(target)) if target else float(not prediction)
