"""What can be said about a scene: its graph, and captions made from the graph alone."""

from math import atan2, degrees, tan
from typing import Any

import numpy as np

from lumen.scenes.camera import FIELD_OF_VIEW
from lumen.scenes.world import World, pick

SKY_WORDS = {
    "clear": ("under a clear sky", "on a clear day", "in bright sunshine"),
    "overcast": ("under an overcast sky", "on an overcast day", "under grey clouds"),
    "sunset": ("under a sunset sky", "at sunset", "in the light of the sunset"),
    "night": ("under a night sky", "at night", "in the moonlight"),
    "fog": ("in the fog", "on a foggy day", "in thick fog"),
    "snow": ("in the snow", "on a snowy day", "in falling snow"),
}
GROUND_WORDS = {
    "grass": ("on grass", "on the soft grass"),
    "sand": ("on sand", "on the sand of a beach"),
    "water": ("on water", "on the calm water"),
    "road": ("on a road", "on the grey road"),
}
SIDE_WORDS = {"left": "on the left", "centre": "in the middle", "right": "on the right"}
OPENINGS = ("a picture of ", "a photo of ", "a view of ", "a scene with ")
NUMBERS = {2: "two", 3: "three", 4: "four"}


def describe(world: World, instance: np.ndarray, silhouette: np.ndarray) -> dict[str, Any]:
    """The scene graph. Positions are those of the middle square view, so they do not depend on the size of the image.

    `instance` (H, W) and the outlines `silhouette` (objects, H, W) give how much is seen: `share` of the image's
    pixels, `visible` of the object's own outline. Distances are in metres, angles in degrees (0 ahead, positive left).
    """
    objects = []
    for i, t in enumerate(world.things, 1):
        own, outline = np.count_nonzero(instance == i), np.count_nonzero(silhouette[i - 1])
        across = 0.5 - t.place[1] / t.place[0] / (2 * tan(FIELD_OF_VIEW / 2))
        objects.append(
            {
                "id": i,
                "kind": t.kind,
                "colour": t.colour,
                "side": "left" if across < 0.36 else "right" if across > 0.64 else "centre",
                "across": round(across, 4),
                "distance": round(t.place[0], 4),
                "heading": round(degrees(t.yaw), 2),
                "size": [round(d, 4) for d in t.dimensions],
                "share": own / instance.size,
                "visible": own / max(outline, 1),
            }
        )
    x, y, z = world.light
    light = {"azimuth": round(degrees(atan2(y, x)), 2), "elevation": round(degrees(np.arcsin(z)), 2)}
    graph = {"seed": world.seed, "ground": world.ground, "sky": world.sky, "light": light, "objects": objects}
    return {**graph, "relations": relations(objects)}


def relations(objects: list[dict]) -> list[dict]:
    """What is clearly left or right of, in front of or behind what, both ways round; near ties are left unsaid."""
    found = []
    for a in objects:
        for b in objects:
            if a["across"] < b["across"] - 0.15:
                found += [(a, "left of", b), (b, "right of", a)]
            if a["distance"] < b["distance"] - 1.5:
                found += [(a, "in front of", b), (b, "behind", a)]
    return [{"subject": a["id"], "relation": name, "object": b["id"]} for a, name, b in found]


def article(words: str) -> str:
    return f"an {words}" if words[0] in "aeiou" else f"a {words}"


def name(thing: dict) -> str:
    return article(f"{thing['colour']} {thing['kind']}")


def listed(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def counted(objects: list[dict]) -> str:
    """'two houses and a ball': kinds without colours, in the order they first come up."""
    kinds = [thing["kind"] for thing in objects]
    groups = {kind: kinds.count(kind) for kind in kinds}
    plural = {kind: f"{kind}es" if kind.endswith("x") else f"{kind}s" for kind in groups}
    return listed([article(kind) if n == 1 else f"{NUMBERS[n]} {plural[kind]}" for kind, n in groups.items()])


def related(rng: np.random.RandomState, graph: dict) -> str:
    """One relation in words, and then whatever else is there; a plain list where nothing is clearly related."""
    if not graph["relations"]:
        return listed([name(thing) for thing in graph["objects"]])
    fact = pick(rng, graph["relations"])
    things = {thing["id"]: thing for thing in graph["objects"]}
    said = f"{name(things.pop(fact['subject']))} {fact['relation']} {name(things.pop(fact['object']))}"
    return f"{said} with {listed([name(thing) for thing in things.values()])}" if things else said


def captions(graph: dict) -> tuple[str, ...]:
    """Five true sentences in a closed vocabulary, no two alike; the first names every object, the ground and the sky.

    The wording is drawn from the scene's seed by its own generator, so new words never change the picture.
    """
    rng = np.random.RandomState((graph["seed"] + 2**31) % 2**32)
    objects = graph["objects"]

    def ground() -> str:
        return pick(rng, GROUND_WORDS[graph["ground"]])

    def sky() -> str:
        return pick(rng, SKY_WORDS[graph["sky"]])

    names = listed([name(thing) for thing in objects])
    placed = listed([f"{name(thing)} {SIDE_WORDS[thing['side']]}" for thing in objects])
    plain = f"{GROUND_WORDS[graph['ground']][0]} {SKY_WORDS[graph['sky']][0]}"
    largest = max(objects, key=lambda thing: thing["size"][0] * thing["size"][2] / thing["distance"] ** 2)
    return (
        f"{related(rng, graph)} {plain}",
        f"{pick(rng, OPENINGS)}{names} {ground()} {sky()}",
        f"{sky()}, {placed}, {ground()}",
        f"{counted(objects)} {ground()} {sky()}",
        f"{name(largest)} {pick(rng, ('can be seen', 'stands out', 'catches the eye'))} {ground()} {sky()}",
    )
