"""Questions are true to their scene and give nothing away."""

from collections import Counter

import numpy as np
import pytest

from lumen.scenes.caption_edits import edited
from lumen.scenes.captions import captions, describe
from lumen.scenes.questions import NO, YES, questions
from lumen.scenes.world import world

SEEDS = range(300)


@pytest.fixture(scope="module")
def graphs():
    """Graphs without a picture: no question is about how much of a thing is seen."""
    worlds = [world(seed) for seed in SEEDS]
    return [describe(w, np.zeros((1, 1)), np.zeros((len(w.things), 1, 1))) for w in worlds]


def test_answers_are_true_to_the_graph(graphs):
    for graph in graphs:
        there = {f"{t['colour']} {t['kind']}" for t in graph["objects"]}
        for q in questions(graph):
            assert q.answer in q.choices and len(set(q.choices)) == len(q.choices)
            if q.kind == "presence":
                assert (q.text.removeprefix("is there a").lstrip("n ").rstrip("?") in there) == (q.answer == YES)
            elif q.kind == "colour":
                kind = q.text.removeprefix("what colour is the ").rstrip("?")
                assert [t["colour"] for t in graph["objects"] if t["kind"] == kind] == [q.answer]
            else:
                assert q.answer == graph[q.kind]


def test_every_thing_is_asked_for_and_as_many_that_are_not_there(graphs):
    for graph in graphs:
        asked = questions(graph)
        assert len({q.text for q in asked}) == len(asked)
        answers = Counter(q.answer for q in asked if q.kind == "presence")
        assert answers[YES] == answers[NO] == len(graph["objects"])
        assert Counter(q.kind for q in asked)["ground"] == Counter(q.kind for q in asked)["sky"] == 1


def test_the_first_caption_answers_them(graphs):
    """TIFA asks a picture for what its prompt says."""
    for graph in graphs:
        said = captions(graph)[0]
        for q in questions(graph):
            if q.kind == "presence":
                name = q.text.removeprefix("is there ").rstrip("?")
                assert (name in said) == (q.answer == YES)
            elif q.kind != "sky":
                assert q.answer in said


def test_the_words_of_a_question_do_not_give_its_answer_away(graphs):
    for word in (-1, -2):
        asked = [q for graph in graphs for q in questions(graph) if q.kind == "presence"]
        of = [(q.text.rstrip("?").split()[word], q.answer) for q in asked]
        for name, n in Counter(name for name, _ in of).items():
            # three standard deviations of a fair coin
            assert abs(of.count((name, YES)) / n - 0.5) < 1.5 / n**0.5, name
    assert max(Counter(q.answer for g in graphs for q in questions(g) if q.kind == "colour").values()) < 150


def test_questions_depend_on_the_seed_and_the_draw_alone(graphs):
    assert [questions(graph) for graph in graphs] == [questions(dict(graph)) for graph in graphs]
    for graph in graphs[:50]:
        first, other = questions(graph), questions(graph, draw=1)
        assert [q for q in first if q.answer != NO] == [q for q in other if q.answer != NO]
    assert [questions(g) for g in graphs[:50]] != [questions(g, draw=1) for g in graphs[:50]]


@pytest.mark.parametrize("edit", ["sky", "ground", "colour"])
def test_an_edit_changes_what_it_says_and_nothing_else(graphs, edit):
    for graph in graphs:
        other = edited(graph, edit)
        before, after = ({q.text: q.answer for q in questions(g) if q.kind == edit} for g in (graph, other))
        assert before.keys() == after.keys() and all(before[text] != after[text] for text in before)
        assert captions(other)[0] != captions(graph)[0]
        assert {k: v for k, v in other.items() if k not in (edit, "objects")} == {
            k: v for k, v in graph.items() if k not in (edit, "objects")
        }
        assert len({(t["kind"], t["colour"]) for t in other["objects"]}) == len(graph["objects"])
