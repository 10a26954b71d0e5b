"""Content of a scene: ground, sky, light, camera and objects, sampled from a seed alone."""

from dataclasses import dataclass
from math import cos, pi, radians, sin

import numpy as np

from lumen.core.errors import Mistake
from lumen.scenes.camera import Camera
from lumen.scenes.objects import COLOURS, KINDS, SceneObject, build_solids
from lumen.scenes.ray_casting import Hits, Solid, Vector, cast_rays

GROUNDS = ("grass", "sand", "water", "road")
SKIES = ("clear", "overcast", "sunset", "night", "fog", "snow")
CLASSES = ("sky", *GROUNDS, *KINDS)
"""Semantic classes; a class id is its position here."""

SPLITS = {"train": 0, "val": 10_000_000, "test": 20_000_000}
"""First seed of each split; a split ends before the next one begins."""
SPLIT_SIZE = 10_000_000

PREVIEW_PX = 24
"""Side of the view in which positions are checked (49 x 49 rays): fixed, so the image size cannot change a scene."""
MIN_AREA_SHARE, MAX_AREA_SHARE = 0.022, 0.32
"""Least and largest share of the square view that an object may fill."""
MIN_VISIBLE_SHARE = 0.7
"""Least share of an object's own silhouette that must stay uncovered."""


@dataclass(frozen=True)
class World:
    """Scene before it is rendered.

    Attributes:
        seed: Seed that everything else follows from.
        light: Unit vector towards the sun or moon, in the vehicle frame.
        camera_height: Metres above the ground.
        camera_pitch: Radians, positive looking down.
        lane_yaw: Direction of the lane markings of a road, in radians.
    """

    seed: int
    ground: str
    sky: str
    light: tuple[float, float, float]
    camera_height: float
    camera_pitch: float
    lane_yaw: float
    objects: tuple[SceneObject, ...]

    @property
    def solids(self) -> list[Solid]:
        """Solids of all objects, in their order."""
        return [solid for obj in self.objects for solid in obj.solids]

    def camera(self, size: tuple[int, int]) -> Camera:
        """Return the camera for an image of `size` (H, W)."""
        return Camera.for_size(size, self.camera_height, self.camera_pitch)


def split_seeds(split: str, count: int) -> range:
    """Return the first `count` seeds of a split. Splits never overlap.

    Raises:
        Mistake: There is no such split, or it has fewer seeds.
    """
    if split not in SPLITS:
        raise Mistake(f"scenes: no split is called {split!r}; available: {', '.join(SPLITS)}. Name one of these.")
    if not 0 <= count <= SPLIT_SIZE:
        raise Mistake(
            f"scenes: split {split!r} has {SPLIT_SIZE} seeds, but {count} were requested; request 0 to {SPLIT_SIZE}."
        )
    return range(SPLITS[split], SPLITS[split] + count)


def pick(rng: np.random.RandomState, options):
    """Return a random option. `random_sample` has the same stream of numbers on every platform."""
    return options[int(rng.random_sample() * len(options))]


def sample_light(rng: np.random.RandomState, sky: str) -> tuple[float, float, float]:
    """Return the unit vector towards the light: low and ahead at sunset and night, otherwise high and to one side."""
    side = pick(rng, (-1.0, 1.0))
    if sky in ("sunset", "night"):
        azimuth, elevation = side * rng.uniform(4, 18), rng.uniform(9, 14)
    else:
        azimuth, elevation = side * rng.uniform(70, 150), rng.uniform(35, 58)
    azimuth, elevation = radians(azimuth), radians(elevation)
    return cos(elevation) * cos(azimuth), cos(elevation) * sin(azimuth), sin(elevation)


def sample_dimensions(rng: np.random.RandomState, kind: str) -> tuple[float, float, float]:
    """Return length, width and height in metres: toy-like, so that a ball and a house both matter at 64 pixels."""
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


def sample_object(rng: np.random.RandomState, kind: str) -> SceneObject:
    """Return an object ahead of the camera, without solids.

    Larger kinds stand further away, so that all kinds fill about the same share of the image.
    """
    colour = pick(rng, ("green", "orange", "yellow", "red") if kind == "tree" else tuple(COLOURS))
    size = sample_dimensions(rng, kind)
    near = {"ball": 4.2, "box": 4.6, "pillar": 5.5, "tree": 6.0, "house": 8.5, "car": 5.5}[kind]
    forward = near + 5.0 * rng.random_sample() ** 1.3
    sideways = forward * rng.uniform(-0.42, 0.42)
    yaw = rng.uniform(-pi, pi)
    if kind == "house":
        # Turned so that two walls and a slope of the roof show.
        yaw = pick(rng, (0, pi)) + pick(rng, (-1, 1)) * rng.uniform(0.35, 0.95)
    return SceneObject(kind, colour, (forward, sideways), yaw, size)


def trace_objects(objects: list[SceneObject], camera: Camera, directions: Vector, shape: tuple[int, int]) -> Hits:
    """Return the first hits of camera rays with objects."""
    solids = [solid for obj in objects for solid in obj.solids]
    owners = [i for i, obj in enumerate(objects) for _ in obj.solids]
    windows = camera.bounding_windows(np.stack([solid.corners() for solid in solids]), shape)
    return cast_rays(solids, owners, (0.0, 0.0, camera.height), directions, windows, shape)


def fits(candidate: SceneObject, objects: list[SceneObject], camera: Camera) -> bool:
    """Return whether a candidate is distinct, stands clear of the others, and lies well inside the square view.

    The check casts no rays.
    """
    # A caption must be able to tell objects apart.
    if any((candidate.kind, candidate.colour) == (obj.kind, obj.colour) for obj in objects):
        return False
    for obj in objects:
        distance = np.hypot(*np.subtract(candidate.position, obj.position))
        if distance < candidate.footprint_radius + obj.footprint_radius + 0.25:
            return False
    u, v, _ = camera.project(candidate.corners())
    left, right, top, bottom = u.min() / PREVIEW_PX, u.max() / PREVIEW_PX, v.min() / PREVIEW_PX, v.max() / PREVIEW_PX
    inside = (min(right, 1) - max(left, 0)) * (min(bottom, 1) - max(top, 0))
    return bool(left < 0.9 and right > 0.1 and inside > 0.85 * (right - left) * (bottom - top))


def all_visible(objects: list[SceneObject], camera: Camera) -> bool:
    """Return whether every object fills enough of the view, none fills too much, and none is mostly covered."""
    directions, shape = camera.half_pixel_rays((PREVIEW_PX, PREVIEW_PX))
    hits = trace_objects(objects, camera, directions, shape)
    owner = np.array([i for i, obj in enumerate(objects) for _ in obj.solids] + [-1])[hits.solid]
    for i, silhouette in enumerate(hits.silhouette):
        visible, whole = np.count_nonzero(owner == i), np.count_nonzero(silhouette)
        share = visible / owner.size
        if not MIN_AREA_SHARE <= share <= MAX_AREA_SHARE or visible < MIN_VISIBLE_SHARE * whole:
            return False
    return True


def populate(rng: np.random.RandomState, ground: str, camera: Camera) -> tuple[SceneObject, ...]:
    """Return 1 to 4 objects by rejection sampling: a candidate stays if everything is then still visible."""
    target = pick(rng, (1, 2, 2, 3, 3, 4, 4, 4, 4))
    # A car on water would be true to its caption and look like a mistake of the renderer.
    # Elsewhere cars and trees come up twice, because they are the hardest to find room for.
    kinds = KINDS[:-1] if ground == "water" else (*KINDS, "tree", "car")
    objects: list[SceneObject] = []
    # A crowded view may have no room for the target number; an empty view is tried further.
    for attempt in range(100):
        if len(objects) == target or (objects and attempt > target + 1):
            break
        kind = pick(rng, kinds)
        # 16 tries per kind: with one, the kinds that fit most easily would fill the world.
        for candidate in (sample_object(rng, kind) for _ in range(16)):
            if fits(candidate, objects, camera) and all_visible(
                more := [*objects, build_solids(rng, candidate)], camera
            ):
                objects = more
                break
    return tuple(objects)


def sample_world(seed: int) -> World:
    """Return the world of a seed: the same on every machine and at every image size.

    RandomState (MT19937) is NumPy's legacy generator, whose stream NumPy's policy (NEP 19) keeps frozen.
    """
    rng = np.random.RandomState(seed)
    ground, sky = pick(rng, GROUNDS), pick(rng, SKIES)
    light = sample_light(rng, sky)
    height, pitch = rng.uniform(1.7, 2.5), radians(rng.uniform(7, 11))
    lane_yaw = radians(rng.uniform(-25, 25))
    camera = Camera.for_size((PREVIEW_PX, PREVIEW_PX), height, pitch)
    return World(seed, ground, sky, light, height, pitch, lane_yaw, populate(rng, ground, camera))
