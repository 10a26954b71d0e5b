"""The things of the world, each put together from a few solids standing on the ground."""

from dataclasses import dataclass, replace
from math import cos, sin

import numpy as np

from lumen.scenes.ray_casting import Solid

# Display colours; far enough apart to be told from one another under every sky.
COLOURS = {
    "red": (0.80, 0.13, 0.12),
    "orange": (0.94, 0.48, 0.08),
    "yellow": (0.96, 0.82, 0.16),
    "green": (0.17, 0.56, 0.25),
    "blue": (0.14, 0.36, 0.80),
    "purple": (0.53, 0.24, 0.68),
    "white": (0.94, 0.93, 0.90),
}
BARK, GLASS, TYRE, SLATE, BRICK, WOOD = (
    (0.38, 0.26, 0.18), (0.16, 0.21, 0.27), (0.10, 0.10, 0.11),
    (0.33, 0.35, 0.41), (0.55, 0.25, 0.20), (0.36, 0.23, 0.15),
)  # fmt: skip
LAMP, PANE = (1.0, 0.86, 0.55), (0.52, 0.66, 0.76)
KINDS = ("ball", "box", "pillar", "tree", "house", "car")


def linear(colour: tuple[float, float, float], shade: float = 1.0) -> tuple[float, float, float]:
    """A display colour as linear light. Squaring stands for the sRGB curve: sqrt, its inverse, is exact everywhere."""
    return tuple(shade * c * c for c in colour)


@dataclass(frozen=True)
class Thing:
    """One object: what it is, and the box it fills (`place` x, y and `dimensions` length, width, height in metres)."""

    kind: str
    colour: str
    place: tuple[float, float]
    yaw: float
    dimensions: tuple[float, float, float]
    solids: tuple[Solid, ...] = ()

    @property
    def centre(self) -> tuple[float, float, float]:
        return (*self.place, self.dimensions[2] / 2)

    @property
    def reach(self) -> float:
        """Radius of the circle on the ground that the thing stands in, in metres."""
        return float(np.hypot(*self.dimensions[:2])) / 2

    def corners(self) -> np.ndarray:
        """The 8 corners (8, 3) of the box."""
        return Solid("convex", self.centre, tuple(d / 2 for d in self.dimensions), self.yaw).corners()


def prism(low: tuple, high: tuple, pinch: tuple[float, float] = (0.0, 0.0), **finish) -> Solid:
    """A box from corner `low` to corner `high` whose top is drawn in by `pinch` metres on each side along x and y.

    No pinch makes a box, half the width a pitched roof, a little of the length the cabin of a car.
    """
    centre = tuple((a + b) / 2 for a, b in zip(low, high, strict=True))
    half = tuple((b - a) / 2 for a, b in zip(low, high, strict=True))
    planes = [(0, 0, 1, half[2]), (0, 0, -1, half[2])]
    for axis, draw in enumerate(pinch):
        lean = draw / (2 * half[2])
        length = np.hypot(1, lean)
        for sign in (-1, 1):
            normal = [0.0, 0.0, lean / length]
            normal[axis] = sign / length
            planes.append((*normal, (half[axis] - draw / 2) / length))
    return Solid("convex", centre, half, planes=np.array(planes, float), **finish)


def upright(shape: str, x: float, y: float, low: float, high: float, radius: float, **finish) -> Solid:
    """A standing cylinder or cone between the heights `low` and `high`."""
    return Solid(shape, (x, y, (low + high) / 2), (radius, radius, (high - low) / 2), **finish)


def ball(rng, paint, size) -> tuple[Solid, ...]:
    radius = size[2] / 2
    return (Solid("sphere", (0.0, 0.0, radius), (radius,) * 3, paint=linear(paint), gloss=0.5),)


def box(rng, paint, size) -> tuple[Solid, ...]:
    (x, y, z), rim = (size[0] / 2, size[1] / 2, size[2]), 0.05
    body = prism((rim - x, rim - y, 0), (x - rim, y - rim, 0.74 * z), paint=linear(paint))
    lid = prism((-x, -y, 0.74 * z), (x, y, z), paint=linear(paint, 0.72))
    return body, lid


def pillar(rng, paint, size) -> tuple[Solid, ...]:
    radius, top = size[0] / 2, size[2]
    foot = upright("cylinder", 0, 0, 0, 0.1 * top, radius, paint=linear(paint, 0.8))
    shaft = upright("cylinder", 0, 0, 0.1 * top, 0.9 * top, 0.76 * radius, paint=linear(paint))
    return foot, shaft, replace(foot, centre=(0.0, 0.0, 0.95 * top))


def tree(rng, paint, size) -> tuple[Solid, ...]:
    radius, top = size[0] / 2, size[2]
    trunk = upright("cylinder", 0, 0, 0, 0.5 * top, 0.15 * radius, paint=linear(BARK))
    leaves = {"paint": linear(paint), "leafy": 1.0}
    if rng.random_sample() < 0.4:
        low = upright("cone", 0, 0, 0.18 * top, 0.72 * top, radius, **leaves)
        return trunk, low, upright("cone", 0, 0, 0.48 * top, top, 0.74 * radius, **leaves)
    turn, r = rng.uniform(0, 2 * np.pi), 0.66 * radius
    crown = Solid("sphere", (0.0, 0.0, top - 0.8 * radius), (0.8 * radius,) * 3, **leaves)
    sides = [(0.34 * radius * cos(turn + a), 0.34 * radius * sin(turn + a), top - 1.3 * radius) for a in (0.0, np.pi)]
    return trunk, crown, *(Solid("sphere", side, (r,) * 3, **leaves) for side in sides)


def house(rng, paint, size) -> tuple[Solid, ...]:
    x, y, z = size[0] / 2, size[1] / 2, size[2]
    eaves, rim, out = 0.58 * z, 0.14, 0.05
    wall_x, wall_y = x - rim, y - rim
    walls = prism((-wall_x, -wall_y, 0), (wall_x, wall_y, eaves), paint=linear(paint))
    gable = prism((-wall_x, -wall_y, eaves), (wall_x, wall_y, 0.95 * z), (0, wall_y), paint=linear(paint))
    # Slate on red and orange walls, where brick would hardly show.
    cover = SLATE if paint[0] > 0.7 and paint[1] < 0.6 else BRICK
    roof = prism((-x, -y, eaves - 0.03), (x, y, z), (0, y), paint=linear(cover))
    door = prism((-wall_x - out, -0.17 * y, 0), (wall_x + out, 0.17 * y, 0.72 * eaves), paint=linear(WOOD))
    panes = {"paint": linear(PANE), "glow": 1.0, "gloss": 0.4}
    low, high, through_x, through_y = 0.40 * eaves, 0.76 * eaves, wall_x + out, wall_y + out
    windows = []
    # A pane goes right through the house and is seen on both of its sides.
    for side in (-1, 1):
        windows.append(
            prism((-through_x, side * 0.6 * y - 0.19 * y, low), (through_x, side * 0.6 * y + 0.19 * y, high), **panes)
        )
        windows.append(
            prism((side * 0.45 * x - 0.2 * x, -through_y, low), (side * 0.45 * x + 0.2 * x, through_y, high), **panes)
        )
    return walls, gable, roof, door, *windows


def car(rng, paint, size) -> tuple[Solid, ...]:
    x, y, z = size[0] / 2, size[1] / 2, size[2]
    wheel, belt, side = 0.24 * z, 0.60 * z, y - 0.03
    body = prism((-x, -side, 0.6 * wheel), (x, side, belt), (0.05 * x, 0.04 * y), paint=linear(paint), gloss=0.1)
    # As wide as the body's top: a ledge of a few centimetres would be a dotted line.
    wide = side - 0.04 * y
    glass = prism(
        (-0.72 * x, -wide, belt), (0.48 * x, wide, 0.93 * z), (0.2 * x, 0.18 * y), paint=linear(GLASS), gloss=0.6
    )
    roof = prism((-0.53 * x, -0.78 * side, 0.92 * z), (0.29 * x, 0.78 * side, z), paint=linear(paint), gloss=0.1)
    front = prism((0.9 * x, -0.86 * side, 0.36 * z), (x, 0.86 * side, 0.47 * z), paint=linear(LAMP), glow=1.0)
    back = prism(
        (-x, -0.86 * side, 0.36 * z), (-0.9 * x, 0.86 * side, 0.47 * z), paint=linear((0.7, 0.06, 0.06)), glow=0.3
    )
    tyre = Solid("cylinder", (0.0, 0.0, wheel), (wheel, 0.1, wheel), axis=(0.0, 1.0, 0.0), paint=linear(TYRE))
    wheels = [replace(tyre, centre=(fore * 0.62 * x, left * (y - 0.1), wheel)) for fore in (-1, 1) for left in (-1, 1)]
    return body, glass, roof, front, back, *wheels


MAKERS = {"ball": ball, "box": box, "pillar": pillar, "tree": tree, "house": house, "car": car}


def placed(solid: Solid, place: tuple[float, float], yaw: float) -> Solid:
    """`solid`, made at the origin, turned by `yaw` radians and moved to `place`; its planes turn and move with it."""
    c, s = cos(yaw), sin(yaw)
    turn = np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])
    centre = turn @ solid.centre + (*place, 0.0)
    normals = solid.planes[:, :3] @ turn.T
    planes = np.column_stack([normals, solid.planes[:, 3] + normals @ centre])
    return replace(solid, centre=tuple(centre), yaw=yaw, axis=tuple(turn @ solid.axis), planes=planes)


def built(rng: np.random.RandomState, outline: Thing) -> Thing:
    """`outline` with its solids; a separate step, so that a place can be refused before anything is built there."""
    solids = MAKERS[outline.kind](rng, COLOURS[outline.colour], outline.dimensions)
    return replace(outline, solids=tuple(placed(solid, outline.place, outline.yaw) for solid in solids))
