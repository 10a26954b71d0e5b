"""Multiple-choice questions about a scene from its graph, in the manner of TIFA (Hu et al. 2023, arXiv:2303.11897)."""

import numpy as np

from lumen.data.questions import Question
from lumen.scenes.captions import name_object
from lumen.scenes.objects import COLOURS, KINDS
from lumen.scenes.world import GROUNDS, SKIES, pick

YES, NO = "yes", "no"
LEAF_COLOURS = ("green", "orange", "yellow", "red")  # of trees: the answer for a blue tree needs no image
# Relative frequency of each kind among absent objects, such that half of the questions about each kind are answered
# no; counted on 1,024 scenes of val and test.
ABSENT_KIND_WEIGHTS = {"ball": 0.65, "box": 0.95, "pillar": 1.15, "tree": 1.5, "house": 0.75, "car": 1.2}


def compose_questions(graph: dict, variant: int = 0) -> tuple[Question, ...]:
    """Return everything that the first caption states, as questions that caption and image answer alike.

    For each object there is a question about its presence, answered yes, and one about an absent object, answered no.
    The colour of an object is a question if no other object has its kind.

    Args:
        variant: Selects other absent objects; the remaining questions stay.
    """
    rng = np.random.RandomState((graph["seed"] % 2**32, variant, 1))
    result = []
    for obj, absent in zip(graph["objects"], sample_absent_objects(graph, rng), strict=True):
        result += [presence_question(obj, YES), presence_question(absent, NO)]
    kinds = [obj["kind"] for obj in graph["objects"]]
    for obj in graph["objects"]:
        if kinds.count(obj["kind"]) == 1:
            text = f"what colour is the {obj['kind']}?"
            result.append(Question(text, tuple(COLOURS), obj["colour"], "colour"))
    result.append(Question("what is the ground?", GROUNDS, graph["ground"], "ground"))
    result.append(Question("what is the sky like?", SKIES, graph["sky"], "sky"))
    return tuple(result)


def presence_question(obj: dict, answer: str) -> Question:
    """Return the question whether an object is in the scene."""
    return Question(f"is there {name_object(obj)}?", (YES, NO), answer, "presence")


def sample_absent_objects(graph: dict, rng: np.random.RandomState) -> list[dict]:
    """Return as many distinct absent objects as the scene has objects.

    Half of them share the kind of an object of the scene and differ in colour; the others are of another kind. Kinds
    and colours are as frequent as among the objects of the scene, so the words of a question do not reveal its answer.
    """
    excluded = {(obj["kind"], obj["colour"]) for obj in graph["objects"]}
    # Nobody would ask for a car on water.
    unavailable = {kind for kind, _ in excluded} | ({"car"} if graph["ground"] == "water" else set())
    other_kinds = [kind for kind in KINDS if kind not in unavailable]
    absent: list[dict] = []
    for obj in graph["objects"]:
        while True:
            kind = obj["kind"] if rng.random_sample() < 0.5 else sample_kind(rng, other_kinds)
            colour = pick(rng, LEAF_COLOURS if kind == "tree" else tuple(COLOURS))
            if (kind, colour) not in excluded:
                break
        excluded.add((kind, colour))
        absent.append({"kind": kind, "colour": colour})
    return absent


def sample_kind(rng: np.random.RandomState, kinds: list[str]) -> str:
    """Return a random kind by `ABSENT_KIND_WEIGHTS`."""
    edges = np.cumsum([ABSENT_KIND_WEIGHTS[kind] for kind in kinds])
    return kinds[int(np.searchsorted(edges, rng.random_sample() * edges[-1], side="right"))]
