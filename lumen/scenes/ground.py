"""What the ground looks like: its colour and texture, and the shadows that things throw on it."""

import numpy as np

from lumen.scenes.camera import Camera
from lumen.scenes.objects import Thing, linear
from lumen.scenes.ray_casting import SHAPES, Vector, crop
from lumen.scenes.sky import MOODS
from lumen.scenes.texture import blend, column, noise
from lumen.scenes.world import World

PAINT = {
    "grass": (0.36, 0.58, 0.20),
    "sand": (0.88, 0.75, 0.50),
    "water": (0.06, 0.30, 0.42),
    "road": (0.36, 0.36, 0.385),
}
SUNNY = ("clear", "sunset", "night")


def around(points: np.ndarray) -> np.ndarray:
    """The corners (4, 3) of the upright rectangle on the ground around `points` (n, 2), cut off at one's feet."""
    (left, low), (right, high) = points.min(0), points.max(0)
    return np.array([(max(x, 0.8), y, 0.0) for x in (left, right) for y in (low, high)])


def shadows(world: World, camera: Camera, ground: Vector, first: int) -> np.ndarray:
    """Whether a thing stands between the light and each point of the `ground`, whose rows begin at `first`."""
    dark = np.zeros(ground[1].shape, bool)
    corners = np.stack([solid.corners() for solid in world.solids])
    # Every corner of a solid's box throws its shadow away from the light.
    thrown = corners[..., :2] - corners[..., 2:] * (world.light[0] / world.light[2], world.light[1] / world.light[2])
    windows = camera.windows(np.stack([around(points) for points in thrown]), dark.shape, first)
    with np.errstate(all="ignore"):
        for solid, rect in zip(world.solids, windows, strict=True):
            if dark[rect].size:
                t, _ = SHAPES[solid.shape](crop(ground, rect), world.light, solid)
                dark[rect] |= t < np.inf
    return dark


def contact(t: Thing, ground: Vector) -> np.ndarray:
    """The soft darkness under a thing, where little of the sky is seen."""
    c, s = np.cos(t.yaw), np.sin(t.yaw)
    x, y = ground[0] - t.place[0], ground[1] - t.place[1]
    spread = 0.28 if t.kind == "tree" else 0.62
    along, across = (c * x + s * y) / (spread * t.dimensions[0]), (c * y - s * x) / (spread * t.dimensions[1])
    return np.exp(-np.minimum(along * along + across * across, 40.0))


def texture(world: World, x: np.ndarray, y: np.ndarray, fade: np.ndarray) -> np.ndarray:
    """Brightness of the ground around 1: slow patches, and a finer grain that must `fade` with distance."""
    dx, dy = x + world.seed % 41, y + world.seed % 43
    if world.ground == "sand":
        ripple = np.sin(3.2 * x + 0.8 * y + 4 * noise(0.5 * dx, 0.5 * dy))
        return 1 + fade * 0.07 * ripple + 0.12 * (noise(0.35 * dx, 0.35 * dy) - 0.5)
    patches, grain = noise(0.45 * dx, 0.45 * dy) - 0.5, noise(2.2 * dx, 2.2 * dy) - 0.5
    slow, fine = {"grass": (0.45, 0.35), "road": (0.12, 0.14)}[world.ground]
    return 1 + slow * patches + fade * fine * grain


def markings(world: World, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Paint on the road: a dashed line in the middle of two lanes and a solid one on either side."""
    c, s = np.cos(world.lane_yaw), np.sin(world.lane_yaw)
    ahead, aside = c * x + s * y, np.abs(c * y - s * x + 0.4)
    middle = np.clip((0.14 - aside) / 0.05, 0, 1) * np.clip(6 * (np.abs(ahead % 3.6 - 1.8) - 0.75), 0, 1)
    return np.maximum(middle, np.clip((0.14 - np.abs(aside - 3.0)) / 0.05, 0, 1))


def water(
    world: World, x: np.ndarray, y: np.ndarray, steep: np.ndarray, fade: np.ndarray, mirror: np.ndarray
) -> np.ndarray:
    """Deep colour where one looks down, the mirrored world where one looks along, with slow waves."""
    wave = noise(0.55 * x + world.seed % 41, 1.1 * y) + 0.5 * noise(1.3 * x, 2.1 * y + world.seed % 43) - 0.75
    mirrored = np.clip(0.85 - 1.05 * steep + 0.22 * fade * wave, 0.18, 0.85)
    mood = MOODS[world.sky]
    deep = column(linear(PAINT["water"])) * column(np.array(mood.ambient) + 0.6 * np.array(mood.sun)) * 1.5
    return blend(deep * (1 + 0.5 * fade * wave), mirror * 0.82, mirrored)


def ground_light(world: World, camera: Camera, below: Vector, mirror: np.ndarray | None) -> np.ndarray:
    """Light (3, h, w) from the ground along the rays `below` the horizon; `mirror` is what water would reflect."""
    mood = MOODS[world.sky]
    t = camera.height / -below[2]
    x, y = t * below[0], t * below[1]
    wide = np.broadcast_to(x, y.shape)
    fade = np.clip(1.2 - t / 14, 0, 1)
    first = round(4 * camera.v0) + 1 - len(t)
    dark = shadows(world, camera, (x, y, 0.0), first) if world.sky in SUNNY else np.zeros(y.shape, bool)
    under = np.max([contact(thing, (x, y)) for thing in world.things], axis=0)
    if world.ground == "water":
        steep = -below[2] / np.sqrt(below[0] ** 2 + below[1] ** 2 + below[2] ** 2)
        light = water(world, wide, y, steep, fade, mirror) * (1 - 0.22 * dark) * (1 - 0.3 * under)
    else:
        paint = column(linear(PAINT[world.ground])) * texture(world, wide, y, fade)
        if world.ground == "road":
            paint = blend(paint, 0.75, 0.85 * markings(world, wide, y) * np.clip(2 - t / 14, 0, 1))
        paint = blend(paint, 0.8, 0.62 * mood.snow)
        direct = column(mood.sun) * (max(world.light[2], 0.35) * (1 - dark))
        light = paint * (direct + column(mood.ambient) * (1 - 0.55 * under))
    return blend(light, column(mood.horizon), 1 - np.exp(-t / mood.haze))
