"""Captions are true to the scene graph, and the first one is complete."""

import re

import pytest

from lumen.scenes import render
from lumen.scenes.captions import GROUND_PHRASES, NUMBER_WORDS, SKY_PHRASES
from lumen.scenes.objects import COLOURS, KINDS

SEEDS = range(40)
OBJECT = re.compile(rf"\b(an?) ({'|'.join(COLOURS)}) ({'|'.join(KINDS)})\b")
RELATION = re.compile(OBJECT.pattern + r" (left of|right of|in front of|behind) " + OBJECT.pattern)
SIDE = re.compile(OBJECT.pattern + r" (on the left|in the middle|on the right)")


@pytest.fixture(scope="module")
def graphs():
    scenes = [render(seed, 24) for seed in SEEDS]
    return [(scene.graph, scene.captions) for scene in scenes]


def pairs(graph):
    return {(obj["colour"], obj["kind"]) for obj in graph["objects"]}


def test_captions_are_five_distinct_sentences(graphs):
    assert all(len(set(captions)) == len(captions) == 5 for _, captions in graphs)


def test_captions_name_only_objects_of_the_scene(graphs):
    for graph, captions in graphs:
        for caption in captions:
            names = [(colour, kind) for _, colour, kind in OBJECT.findall(caption)]
            assert set(names) <= pairs(graph) and len(names) == len(set(names))
            # No colour or kind is mentioned outside such a pair, except in the caption that counts kinds.
            if names:
                words = re.findall(r"\w+", caption)
                assert sum(word in COLOURS for word in words) == sum(word in KINDS for word in words) == len(names)


def test_first_caption_names_everything(graphs):
    for graph, captions in graphs:
        assert {pair[1:] for pair in OBJECT.findall(captions[0])} == pairs(graph)
        assert captions[0].endswith(f"{GROUND_PHRASES[graph['ground']][0]} {SKY_PHRASES[graph['sky']][0]}")


def test_captions_name_the_ground_and_sky_of_the_scene(graphs):
    for graph, captions in graphs:
        for caption in captions:
            assert [ground for ground in GROUND_PHRASES if re.search(rf"\b{ground}\b", caption)] == [graph["ground"]]
            assert [sky for sky, words in SKY_PHRASES.items() if any(w in caption for w in words)] == [graph["sky"]]


def test_relations_and_sides_in_captions_are_true(graphs):
    count = 0
    for graph, captions in graphs:
        objects = {(obj["colour"], obj["kind"]): obj for obj in graph["objects"]}
        facts = {(fact["subject"], fact["relation"], fact["object"]) for fact in graph["relations"]}
        for caption in captions:
            for _, c1, k1, relation, _, c2, k2 in RELATION.findall(caption):
                assert (objects[c1, k1]["id"], relation, objects[c2, k2]["id"]) in facts
                count += 1
            for _, colour, kind, side in SIDE.findall(caption):
                assert side.split()[-1].replace("middle", "centre") == objects[colour, kind]["side"]
    assert count > len(SEEDS) / 2


def test_relations_have_inverses_and_fit_the_positions(graphs):
    inverse = {"left of": "right of", "right of": "left of", "in front of": "behind", "behind": "in front of"}
    for graph, _ in graphs:
        objects = {obj["id"]: obj for obj in graph["objects"]}
        facts = {(fact["subject"], fact["relation"], fact["object"]) for fact in graph["relations"]}
        for a, relation, b in facts:
            assert (b, inverse[relation], a) in facts
            if relation == "left of":
                assert objects[a]["across"] < objects[b]["across"]
            if relation == "in front of":
                assert objects[a]["distance"] < objects[b]["distance"]


def test_counts_in_captions_are_right(graphs):
    for graph, captions in graphs:
        kinds = [obj["kind"] for obj in graph["objects"]]
        for kind in set(kinds):
            n, plural = kinds.count(kind), f"{kind}es" if kind == "box" else f"{kind}s"
            assert re.search(rf"\ba {kind}\b" if n == 1 else rf"\b{NUMBER_WORDS[n]} {plural}\b", captions[3])


def test_articles_in_captions_fit_their_nouns(graphs):
    for _, captions in graphs:
        assert not any(re.search(r"\ba [aeiou]|\ban [^aeiou]", caption) for caption in captions)
