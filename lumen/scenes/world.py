"""What is in a scene: ground, sky, light, camera and things, drawn from a seed alone."""

from dataclasses import dataclass
from math import cos, pi, radians, sin

import numpy as np

from lumen.core.errors import Mistake
from lumen.scenes.camera import Camera
from lumen.scenes.objects import COLOURS, KINDS, Thing, built
from lumen.scenes.ray_casting import Hits, Solid, Vector, trace

GROUNDS = ("grass", "sand", "water", "road")
SKIES = ("clear", "overcast", "sunset", "night", "fog", "snow")
CLASSES = ("sky", *GROUNDS, *KINDS)
"""Semantic classes; a class id is its position here."""

SPLITS = {"train": 0, "val": 10_000_000, "test": 20_000_000}
"""First seed of each split; a split ends where the next one could begin."""
SPLIT_SIZE = 10_000_000

PROBE = 24
"""Side in pixels of the view in which the layout is tried (49 x 49 rays): fixed, so size cannot change a scene."""
LEAST_SHARE, MOST_SHARE, LEAST_VISIBLE = 0.022, 0.32, 0.7
"""Of the square view: least and most a thing may fill; and the least part of its own outline left uncovered."""


@dataclass(frozen=True)
class World:
    """A scene before it is seen. `light` is the unit vector towards the sun or moon, in the vehicle frame."""

    seed: int
    ground: str
    sky: str
    light: tuple[float, float, float]
    camera_height: float
    camera_pitch: float
    lane_yaw: float
    things: tuple[Thing, ...]

    @property
    def solids(self) -> list[Solid]:
        return [solid for t in self.things for solid in t.solids]

    def camera(self, size: tuple[int, int]) -> Camera:
        return Camera.fitted(size, self.camera_height, self.camera_pitch)


def seeds(split: str, count: int) -> range:
    """The first `count` seeds of a split. Splits never overlap.

    Raises:
        Mistake: there is no such split, or it has fewer seeds.
    """
    if split not in SPLITS:
        raise Mistake(f"scenes: no split is called {split!r}; there are: {', '.join(SPLITS)}. Name one of these.")
    if not 0 <= count <= SPLIT_SIZE:
        raise Mistake(
            f"scenes: {count} seeds were asked of split {split!r}, which has {SPLIT_SIZE}; ask for 0 to {SPLIT_SIZE}."
        )
    return range(SPLITS[split], SPLITS[split] + count)


def pick(rng: np.random.RandomState, options):
    """One of `options`, by the one call whose stream of numbers is the same on every platform."""
    return options[int(rng.random_sample() * len(options))]


def sun(rng: np.random.RandomState, sky: str) -> tuple[float, float, float]:
    """Towards the light: low and ahead at sunset and night, otherwise high and to one side."""
    side = pick(rng, (-1.0, 1.0))
    if sky in ("sunset", "night"):
        azimuth, elevation = side * rng.uniform(4, 18), rng.uniform(9, 14)
    else:
        azimuth, elevation = side * rng.uniform(70, 150), rng.uniform(35, 58)
    azimuth, elevation = radians(azimuth), radians(elevation)
    return cos(elevation) * cos(azimuth), cos(elevation) * sin(azimuth), sin(elevation)


def size_of(rng: np.random.RandomState, kind: str) -> tuple[float, float, float]:
    """Length, width and height in metres: toy-like, so that a ball and a house both matter at 64 pixels."""
    low, high = {
        "ball": ((1.5, 1.0, 1.0), (2.4, 1.0, 1.0)),
        "box": ((1.5, 1.3, 1.2), (2.2, 2.0, 1.9)),
        "pillar": ((1.0, 1.0, 2.8), (1.4, 1.0, 3.8)),
        "tree": ((2.1, 1.0, 3.2), (2.9, 1.0, 4.2)),
        "house": ((3.4, 3.0, 3.0), (4.2, 3.6, 3.8)),
        "car": ((3.5, 1.8, 1.5), (4.1, 2.0, 1.75)),
    }[kind]
    length, width, height = (a + (b - a) * rng.random_sample() for a, b in zip(low, high, strict=True))
    if kind in ("pillar", "tree"):
        width = length
    return (length, length, length) if kind == "ball" else (length, width, height)


def candidate(rng: np.random.RandomState, kind: str) -> Thing:
    """The outline of a thing somewhere ahead; larger kinds stand further away, so that all fill about as much."""
    colour = pick(rng, ("green", "orange", "yellow", "red") if kind == "tree" else tuple(COLOURS))
    size = size_of(rng, kind)
    near = {"ball": 4.2, "box": 4.6, "pillar": 5.5, "tree": 6.0, "house": 8.5, "car": 5.5}[kind]
    forward = near + 5.0 * rng.random_sample() ** 1.3
    sideways = forward * rng.uniform(-0.42, 0.42)
    yaw = rng.uniform(-pi, pi)
    if kind == "house":
        # Turned so that two walls and a slope of the roof show.
        yaw = pick(rng, (0, pi)) + pick(rng, (-1, 1)) * rng.uniform(0.35, 0.95)
    return Thing(kind, colour, (forward, sideways), yaw, size)


def seen(things: list[Thing], camera: Camera, directions: Vector, shape: tuple[int, int]) -> Hits:
    """What the camera sees of `things`."""
    solids = [solid for t in things for solid in t.solids]
    owners = [i for i, t in enumerate(things) for _ in t.solids]
    windows = camera.windows(np.stack([solid.corners() for solid in solids]), shape)
    return trace(solids, owners, (0.0, 0.0, camera.height), directions, windows, shape)


def fits(new: Thing, things: list[Thing], camera: Camera) -> bool:
    """Whether `new` stands clear of the others, unlike them in words, and well inside the square view; casts no ray."""
    # A caption must be able to tell things apart.
    if any((new.kind, new.colour) == (t.kind, t.colour) for t in things):
        return False
    if any(np.hypot(*np.subtract(new.place, t.place)) < new.reach + t.reach + 0.25 for t in things):
        return False
    u, v, _ = camera.project(new.corners())
    left, right, top, bottom = u.min() / PROBE, u.max() / PROBE, v.min() / PROBE, v.max() / PROBE
    inside = (min(right, 1) - max(left, 0)) * (min(bottom, 1) - max(top, 0))
    return bool(left < 0.9 and right > 0.1 and inside > 0.85 * (right - left) * (bottom - top))


def visible(things: list[Thing], camera: Camera) -> bool:
    """Whether every thing fills enough of the view, none fills too much, and none is mostly hidden by another."""
    directions, shape = camera.grid((PROBE, PROBE))
    hits = seen(things, camera, directions, shape)
    owner = np.array([i for i, t in enumerate(things) for _ in t.solids] + [-1])[hits.solid]
    for i, outline in enumerate(hits.silhouette):
        own, whole = np.count_nonzero(owner == i), np.count_nonzero(outline)
        if not LEAST_SHARE <= own / owner.size <= MOST_SHARE or own < LEAST_VISIBLE * whole:
            return False
    return True


def populate(rng: np.random.RandomState, ground: str, camera: Camera) -> tuple[Thing, ...]:
    """1 to 4 things by trial: a candidate stays if everything can then still be seen."""
    wanted = pick(rng, (1, 2, 2, 3, 3, 4, 4, 4, 4))
    # A car on water would be true to its caption and look like a mistake of the renderer.
    # Where cars may be, they and trees come up twice: they are the hardest to find room for.
    kinds = KINDS[:-1] if ground == "water" else (*KINDS, "tree", "car")
    things: list[Thing] = []
    # A crowded view may have no room for all that was wanted; an empty one goes on trying.
    for turn in range(100):
        if len(things) == wanted or (things and turn > wanted + 1):
            break
        kind = pick(rng, kinds)
        # A kind is tried several times before another: one try each would fill the world with what fits most easily.
        for outline in (candidate(rng, kind) for _ in range(16)):
            if fits(outline, things, camera) and visible(more := [*things, built(rng, outline)], camera):
                things = more
                break
    return tuple(things)


def world(seed: int) -> World:
    """The scene of `seed`: the same on every machine, at every size.

    RandomState (MT19937) is NumPy's legacy generator, whose stream NumPy's policy (NEP 19) keeps frozen for good.
    """
    rng = np.random.RandomState(seed)
    ground, sky = pick(rng, GROUNDS), pick(rng, SKIES)
    light = sun(rng, sky)
    height, pitch = rng.uniform(1.7, 2.5), radians(rng.uniform(7, 11))
    lane = radians(rng.uniform(-25, 25))
    camera = Camera.fitted((PROBE, PROBE), height, pitch)
    return World(seed, ground, sky, light, height, pitch, lane, populate(rng, ground, camera))
