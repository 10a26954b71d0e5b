"""A caption says only what is there; the first one says all of it."""

import re

import pytest

from lumen.scenes import render
from lumen.scenes.captions import GROUND_WORDS, NUMBERS, SKY_WORDS
from lumen.scenes.objects import COLOURS, KINDS

SEEDS = range(40)
NAMED = re.compile(rf"\b(an?) ({'|'.join(COLOURS)}) ({'|'.join(KINDS)})\b")
RELATED = re.compile(NAMED.pattern + r" (left of|right of|in front of|behind) " + NAMED.pattern)
SIDED = re.compile(NAMED.pattern + r" (on the left|in the middle|on the right)")


@pytest.fixture(scope="module")
def graphs():
    scenes = [render(seed, 24) for seed in SEEDS]
    return [(scene.graph, scene.captions) for scene in scenes]


def pairs(graph):
    return {(thing["colour"], thing["kind"]) for thing in graph["objects"]}


def test_five_captions_no_two_alike(graphs):
    assert all(len(set(captions)) == len(captions) == 5 for _, captions in graphs)


def test_only_what_is_there_is_named(graphs):
    for graph, captions in graphs:
        for caption in captions:
            named = [(colour, kind) for _, colour, kind in NAMED.findall(caption)]
            assert set(named) <= pairs(graph) and len(named) == len(set(named))
            # No colour or kind is mentioned outside such a pair, but for the caption that counts kinds.
            if named:
                words = re.findall(r"\w+", caption)
                assert sum(word in COLOURS for word in words) == sum(word in KINDS for word in words) == len(named)


def test_the_first_caption_names_everything(graphs):
    for graph, captions in graphs:
        assert {pair[1:] for pair in NAMED.findall(captions[0])} == pairs(graph)
        assert captions[0].endswith(f"{GROUND_WORDS[graph['ground']][0]} {SKY_WORDS[graph['sky']][0]}")


def test_ground_and_sky_are_the_scene_s(graphs):
    for graph, captions in graphs:
        for caption in captions:
            assert [ground for ground in GROUND_WORDS if re.search(rf"\b{ground}\b", caption)] == [graph["ground"]]
            assert [sky for sky, words in SKY_WORDS.items() if any(w in caption for w in words)] == [graph["sky"]]


def test_relations_and_sides_hold(graphs):
    said = 0
    for graph, captions in graphs:
        ids = {(thing["colour"], thing["kind"]): thing for thing in graph["objects"]}
        facts = {(fact["subject"], fact["relation"], fact["object"]) for fact in graph["relations"]}
        for caption in captions:
            for _, c1, k1, relation, _, c2, k2 in RELATED.findall(caption):
                assert (ids[c1, k1]["id"], relation, ids[c2, k2]["id"]) in facts
                said += 1
            for _, colour, kind, side in SIDED.findall(caption):
                assert side.split()[-1].replace("middle", "centre") == ids[colour, kind]["side"]
    assert said > len(SEEDS) / 2


def test_relations_come_in_pairs_and_fit_the_places(graphs):
    opposite = {"left of": "right of", "right of": "left of", "in front of": "behind", "behind": "in front of"}
    for graph, _ in graphs:
        things = {thing["id"]: thing for thing in graph["objects"]}
        facts = {(fact["subject"], fact["relation"], fact["object"]) for fact in graph["relations"]}
        for a, relation, b in facts:
            assert (b, opposite[relation], a) in facts
            if relation == "left of":
                assert things[a]["across"] < things[b]["across"]
            if relation == "in front of":
                assert things[a]["distance"] < things[b]["distance"]


def test_counts_are_right(graphs):
    for graph, captions in graphs:
        kinds = [thing["kind"] for thing in graph["objects"]]
        for kind in set(kinds):
            n, plural = kinds.count(kind), f"{kind}es" if kind == "box" else f"{kind}s"
            assert re.search(rf"\ba {kind}\b" if n == 1 else rf"\b{NUMBERS[n]} {plural}\b", captions[3])


def test_articles(graphs):
    for _, captions in graphs:
        assert not any(re.search(r"\ba [aeiou]|\ban [^aeiou]", caption) for caption in captions)
