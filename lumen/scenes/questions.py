"""What can be asked of a scene: multiple choice from its graph, as TIFA asks (Hu et al. 2023, arXiv:2303.11897)."""

import numpy as np

from lumen.data.questions import Question
from lumen.scenes.captions import name
from lumen.scenes.objects import COLOURS, KINDS
from lumen.scenes.world import GROUNDS, SKIES, pick

YES, NO = "yes", "no"
LEAVES = ("green", "orange", "yellow", "red")  # of trees: a blue one would be denied without a look
# How often a kind is asked for in vain, so that of the questions about each kind half are answered no; counted on
# 1,024 scenes of val and test.
OFTEN = {"ball": 0.65, "box": 0.95, "pillar": 1.15, "tree": 1.5, "house": 0.75, "car": 1.2}


def questions(graph: dict, draw: int = 0) -> tuple[Question, ...]:
    """Everything the first caption says, as questions: true of the caption and of the picture alike.

    Each thing is asked for by colour and kind, and for each such question that is to be answered yes there is one
    to be answered no, so that half are, of every scene. The colour is asked where one thing of its kind is there.

    Args:
        draw: another draw of what is asked for and not there; the rest stays.
    """
    rng = np.random.RandomState((graph["seed"] % 2**32, draw, 1))
    asked = []
    for thing, missing in zip(graph["objects"], absent(graph, rng), strict=True):
        asked += [presence(thing, YES), presence(missing, NO)]
    kinds = [thing["kind"] for thing in graph["objects"]]
    for thing in graph["objects"]:
        if kinds.count(thing["kind"]) == 1:
            text = f"what colour is the {thing['kind']}?"
            asked.append(Question(text, tuple(COLOURS), thing["colour"], "colour"))
    asked.append(Question("what is the ground?", GROUNDS, graph["ground"], "ground"))
    asked.append(Question("what is the sky like?", SKIES, graph["sky"], "sky"))
    return tuple(asked)


def presence(thing: dict, answer: str) -> Question:
    return Question(f"is there {name(thing)}?", (YES, NO), answer, "presence")


def absent(graph: dict, rng: np.random.RandomState) -> list[dict]:
    """As many things that are not there as things that are, no two alike.

    Half of them share the kind of a thing that is there and differ in colour; the others are of another kind.
    Kinds and colours come up as often as among what is there, so the words of a question do not give its answer away.
    """
    there = {(thing["kind"], thing["colour"]) for thing in graph["objects"]}
    # Nobody would ask for a car on water.
    seen = {kind for kind, _ in there} | ({"car"} if graph["ground"] == "water" else set())
    others = [kind for kind in KINDS if kind not in seen]
    found: list[dict] = []
    for thing in graph["objects"]:
        while True:
            kind = thing["kind"] if rng.random_sample() < 0.5 else weighted(rng, others)
            colour = pick(rng, LEAVES if kind == "tree" else tuple(COLOURS))
            if (kind, colour) not in there:
                break
        there.add((kind, colour))
        found.append({"kind": kind, "colour": colour})
    return found


def weighted(rng: np.random.RandomState, kinds: list[str]) -> str:
    """One of `kinds`, the common ones more often."""
    edges = np.cumsum([OFTEN[kind] for kind in kinds])
    return kinds[int(np.searchsorted(edges, rng.random_sample() * edges[-1], side="right"))]
