"""Questions are true to their scene, and their wording does not reveal the answer."""

from collections import Counter

import numpy as np
import pytest

from lumen.scenes.caption_edits import edit_graph
from lumen.scenes.captions import build_graph, compose_captions
from lumen.scenes.questions import NO, YES, compose_questions
from lumen.scenes.world import sample_world

SEEDS = range(300)


@pytest.fixture(scope="module")
def graphs():
    """Graphs without an image: no question is about the visible share of an object."""
    worlds = [sample_world(seed) for seed in SEEDS]
    return [build_graph(w, np.zeros((1, 1)), np.zeros((len(w.objects), 1, 1))) for w in worlds]


def test_question_answers_are_true_to_the_graph(graphs):
    for graph in graphs:
        present = {f"{obj['colour']} {obj['kind']}" for obj in graph["objects"]}
        for q in compose_questions(graph):
            assert q.answer in q.choices and len(set(q.choices)) == len(q.choices)
            if q.kind == "presence":
                assert (q.text.removeprefix("is there a").lstrip("n ").rstrip("?") in present) == (q.answer == YES)
            elif q.kind == "colour":
                kind = q.text.removeprefix("what colour is the ").rstrip("?")
                assert [obj["colour"] for obj in graph["objects"] if obj["kind"] == kind] == [q.answer]
            else:
                assert q.answer == graph[q.kind]


def test_questions_ask_for_every_object_and_as_many_absent_ones(graphs):
    for graph in graphs:
        questions = compose_questions(graph)
        assert len({q.text for q in questions}) == len(questions)
        answers = Counter(q.answer for q in questions if q.kind == "presence")
        assert answers[YES] == answers[NO] == len(graph["objects"])
        kinds = Counter(q.kind for q in questions)
        assert kinds["ground"] == kinds["sky"] == 1


def test_questions_are_answered_by_the_first_caption(graphs):
    """TIFA asks about an image what its prompt states."""
    for graph in graphs:
        caption = compose_captions(graph)[0]
        for q in compose_questions(graph):
            if q.kind == "presence":
                name = q.text.removeprefix("is there ").rstrip("?")
                assert (name in caption) == (q.answer == YES)
            elif q.kind != "sky":
                assert q.answer in caption


def test_question_words_do_not_reveal_the_answer(graphs):
    for word in (-1, -2):
        questions = [q for graph in graphs for q in compose_questions(graph) if q.kind == "presence"]
        pairs = [(q.text.rstrip("?").split()[word], q.answer) for q in questions]
        for name, n in Counter(name for name, _ in pairs).items():
            # Three standard deviations of a fair coin.
            assert abs(pairs.count((name, YES)) / n - 0.5) < 1.5 / n**0.5, name
    colours = Counter(q.answer for graph in graphs for q in compose_questions(graph) if q.kind == "colour")
    assert max(colours.values()) < 150


def test_questions_depend_on_seed_and_variant_alone(graphs):
    assert [compose_questions(graph) for graph in graphs] == [compose_questions(dict(graph)) for graph in graphs]
    for graph in graphs[:50]:
        first, second = compose_questions(graph), compose_questions(graph, variant=1)
        assert [q for q in first if q.answer != NO] == [q for q in second if q.answer != NO]
    variants = [[compose_questions(graph, variant) for graph in graphs[:50]] for variant in (0, 1)]
    assert variants[0] != variants[1]


@pytest.mark.parametrize("edit", ["sky", "ground", "colour"])
def test_edited_graph_differs_in_the_edited_part_alone(graphs, edit):
    for graph in graphs:
        edited = edit_graph(graph, edit)
        before, after = ({q.text: q.answer for q in compose_questions(g) if q.kind == edit} for g in (graph, edited))
        assert before.keys() == after.keys() and all(before[text] != after[text] for text in before)
        assert compose_captions(edited)[0] != compose_captions(graph)[0]
        unedited = [{k: v for k, v in g.items() if k not in (edit, "objects")} for g in (graph, edited)]
        assert unedited[0] == unedited[1]
        assert len({(obj["kind"], obj["colour"]) for obj in edited["objects"]}) == len(graph["objects"])
