"""Scene graph of a world, and captions composed from the graph alone."""

from math import atan2, degrees, tan
from typing import Any

import numpy as np

from lumen.scenes.camera import FIELD_OF_VIEW
from lumen.scenes.world import World, pick

SKY_PHRASES = {
    "clear": ("under a clear sky", "on a clear day", "in bright sunshine"),
    "overcast": ("under an overcast sky", "on an overcast day", "under grey clouds"),
    "sunset": ("under a sunset sky", "at sunset", "in the light of the sunset"),
    "night": ("under a night sky", "at night", "in the moonlight"),
    "fog": ("in the fog", "on a foggy day", "in thick fog"),
    "snow": ("in the snow", "on a snowy day", "in falling snow"),
}
GROUND_PHRASES = {
    "grass": ("on grass", "on the soft grass"),
    "sand": ("on sand", "on the sand of a beach"),
    "water": ("on water", "on the calm water"),
    "road": ("on a road", "on the grey road"),
}
SIDE_PHRASES = {"left": "on the left", "centre": "in the middle", "right": "on the right"}
OPENINGS = ("a picture of ", "a photo of ", "a view of ", "a scene with ")
NUMBER_WORDS = {2: "two", 3: "three", 4: "four"}


def build_graph(world: World, instance: np.ndarray, silhouette: np.ndarray) -> dict[str, Any]:
    """Return the scene graph.

    Positions refer to the square view in the middle, so they do not depend on the size of the image. Distances are in
    metres, angles in degrees (0 ahead, positive left).

    Args:
        instance: Instance map (H, W), for `share`: the object's share of the image's pixels.
        silhouette: Masks (objects, H, W) of each object alone, for `visible`: the uncovered share of its own pixels.
    """
    objects = []
    for i, obj in enumerate(world.objects, 1):
        visible, whole = np.count_nonzero(instance == i), np.count_nonzero(silhouette[i - 1])
        across = 0.5 - obj.position[1] / obj.position[0] / (2 * tan(FIELD_OF_VIEW / 2))
        objects.append(
            {
                "id": i,
                "kind": obj.kind,
                "colour": obj.colour,
                "side": "left" if across < 0.36 else "right" if across > 0.64 else "centre",
                "across": round(across, 4),
                "distance": round(obj.position[0], 4),
                "heading": round(degrees(obj.yaw), 2),
                "size": [round(d, 4) for d in obj.dimensions],
                "share": visible / instance.size,
                "visible": visible / max(whole, 1),
            }
        )
    x, y, z = world.light
    light = {"azimuth": round(degrees(atan2(y, x)), 2), "elevation": round(degrees(np.arcsin(z)), 2)}
    graph = {"seed": world.seed, "ground": world.ground, "sky": world.sky, "light": light, "objects": objects}
    return {**graph, "relations": find_relations(objects)}


def find_relations(objects: list[dict]) -> list[dict]:
    """Return the pairs of objects that are clearly left or right of, or in front of or behind, each other.

    Every relation comes with its inverse. Pairs that are nearly level have no relation.
    """
    relations = []
    for a in objects:
        for b in objects:
            if a["across"] < b["across"] - 0.15:
                relations += [(a, "left of", b), (b, "right of", a)]
            if a["distance"] < b["distance"] - 1.5:
                relations += [(a, "in front of", b), (b, "behind", a)]
    return [{"subject": a["id"], "relation": relation, "object": b["id"]} for a, relation, b in relations]


def add_article(words: str) -> str:
    """Return the words with their indefinite article."""
    return f"an {words}" if words[0] in "aeiou" else f"a {words}"


def name_object(obj: dict) -> str:
    """Return article, colour and kind of an object of the graph."""
    return add_article(f"{obj['colour']} {obj['kind']}")


def join_words(words: list[str]) -> str:
    """Return an enumeration with commas and a final 'and'."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def count_kinds(objects: list[dict]) -> str:
    """Return, for instance, 'two houses and a ball': kinds without colours, in the order of first appearance."""
    kinds = [obj["kind"] for obj in objects]
    counts = {kind: kinds.count(kind) for kind in kinds}
    plural = {kind: f"{kind}es" if kind.endswith("x") else f"{kind}s" for kind in counts}
    return join_words(
        [add_article(kind) if n == 1 else f"{NUMBER_WORDS[n]} {plural[kind]}" for kind, n in counts.items()]
    )


def relate_objects(rng: np.random.RandomState, graph: dict) -> str:
    """Return a relation in words, followed by the remaining objects; without relations, a plain enumeration."""
    if not graph["relations"]:
        return join_words([name_object(obj) for obj in graph["objects"]])
    fact = pick(rng, graph["relations"])
    others = {obj["id"]: obj for obj in graph["objects"]}
    subject, relative = others.pop(fact["subject"]), others.pop(fact["object"])
    text = f"{name_object(subject)} {fact['relation']} {name_object(relative)}"
    return f"{text} with {join_words([name_object(obj) for obj in others.values()])}" if others else text


def compose_captions(graph: dict) -> tuple[str, ...]:
    """Return five true, distinct sentences in a closed vocabulary.

    The first names every object, the ground and the sky. The wording is sampled from the scene's seed by a generator of
    its own, so new words never change the image.
    """
    rng = np.random.RandomState((graph["seed"] + 2**31) % 2**32)
    objects = graph["objects"]

    def ground() -> str:
        return pick(rng, GROUND_PHRASES[graph["ground"]])

    def sky() -> str:
        return pick(rng, SKY_PHRASES[graph["sky"]])

    names = join_words([name_object(obj) for obj in objects])
    sides = join_words([f"{name_object(obj)} {SIDE_PHRASES[obj['side']]}" for obj in objects])
    plain = f"{GROUND_PHRASES[graph['ground']][0]} {SKY_PHRASES[graph['sky']][0]}"
    largest = max(objects, key=lambda obj: obj["size"][0] * obj["size"][2] / obj["distance"] ** 2)
    return (
        f"{relate_objects(rng, graph)} {plain}",
        f"{pick(rng, OPENINGS)}{names} {ground()} {sky()}",
        f"{sky()}, {sides}, {ground()}",
        f"{count_kinds(objects)} {ground()} {sky()}",
        f"{name_object(largest)} {pick(rng, ('can be seen', 'stands out', 'catches the eye'))} {ground()} {sky()}",
    )
