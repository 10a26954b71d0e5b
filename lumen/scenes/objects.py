"""Objects of the world, each built from a few solids that stand on the ground."""

from dataclasses import dataclass, replace
from math import cos, sin

import numpy as np

from lumen.scenes.ray_casting import Solid

# Display colours, far enough apart to stay distinct under every sky.
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
HEADLAMP, PANE = (1.0, 0.86, 0.55), (0.52, 0.66, 0.76)
KINDS = ("ball", "box", "pillar", "tree", "house", "car")


def to_linear(colour: tuple[float, float, float], shade: float = 1.0) -> tuple[float, float, float]:
    """Return a display colour as linear light, scaled by `shade`.

    Squaring replaces the sRGB curve, because its inverse, sqrt, is exact on every platform.
    """
    return tuple(shade * c * c for c in colour)


@dataclass(frozen=True)
class SceneObject:
    """Object: its kind, its colour and the oriented box that it fills.

    Attributes:
        kind: One of `KINDS`.
        colour: A key of `COLOURS`.
        position: x and y of the centre in metres.
        yaw: Angle about the vertical in radians.
        dimensions: Length, width and height in metres.
        solids: Parts; empty before `build_solids`.
    """

    kind: str
    colour: str
    position: tuple[float, float]
    yaw: float
    dimensions: tuple[float, float, float]
    solids: tuple[Solid, ...] = ()

    @property
    def centre(self) -> tuple[float, float, float]:
        """Centre of the box in metres."""
        return (*self.position, self.dimensions[2] / 2)

    @property
    def footprint_radius(self) -> float:
        """Radius in metres of the circle on the ground that encloses the object."""
        return float(np.hypot(*self.dimensions[:2])) / 2

    def corners(self) -> np.ndarray:
        """Return the 8 corners (8, 3) of the box."""
        return Solid("convex", self.centre, tuple(d / 2 for d in self.dimensions), self.yaw).corners()


def make_prism(low: tuple, high: tuple, taper: tuple[float, float] = (0.0, 0.0), **material) -> Solid:
    """Return a box from corner `low` to corner `high` whose top is narrower.

    Without a taper it is a box, with half the width a pitched roof, with a little of the length the cabin of a car.

    Args:
        low: Smallest x, y and z in metres.
        high: Largest x, y and z in metres.
        taper: Metres by which the top is narrower on each side along x and y.
        material: Albedo, gloss, foliage and glow of the solid.
    """
    centre = tuple((a + b) / 2 for a, b in zip(low, high, strict=True))
    half = tuple((b - a) / 2 for a, b in zip(low, high, strict=True))
    planes = [(0, 0, 1, half[2]), (0, 0, -1, half[2])]
    for axis, inset in enumerate(taper):
        lean = inset / (2 * half[2])
        length = np.hypot(1, lean)
        for sign in (-1, 1):
            normal = [0.0, 0.0, lean / length]
            normal[axis] = sign / length
            planes.append((*normal, (half[axis] - inset / 2) / length))
    return Solid("convex", centre, half, planes=np.array(planes, float), **material)


def make_upright(shape: str, x: float, y: float, low: float, high: float, radius: float, **material) -> Solid:
    """Return a standing cylinder or cone between the heights `low` and `high`."""
    return Solid(shape, (x, y, (low + high) / 2), (radius, radius, (high - low) / 2), **material)


def build_ball(rng, colour, size) -> tuple[Solid, ...]:
    """Return a sphere."""
    radius = size[2] / 2
    return (Solid("sphere", (0.0, 0.0, radius), (radius,) * 3, albedo=to_linear(colour), gloss=0.5),)


def build_box(rng, colour, size) -> tuple[Solid, ...]:
    """Return body and lid of a box."""
    (x, y, z), rim = (size[0] / 2, size[1] / 2, size[2]), 0.05
    body = make_prism((rim - x, rim - y, 0), (x - rim, y - rim, 0.74 * z), albedo=to_linear(colour))
    lid = make_prism((-x, -y, 0.74 * z), (x, y, z), albedo=to_linear(colour, 0.72))
    return body, lid


def build_pillar(rng, colour, size) -> tuple[Solid, ...]:
    """Return foot, shaft and head of a pillar."""
    radius, top = size[0] / 2, size[2]
    foot = make_upright("cylinder", 0, 0, 0, 0.1 * top, radius, albedo=to_linear(colour, 0.8))
    shaft = make_upright("cylinder", 0, 0, 0.1 * top, 0.9 * top, 0.76 * radius, albedo=to_linear(colour))
    return foot, shaft, replace(foot, centre=(0.0, 0.0, 0.95 * top))


def build_tree(rng, colour, size) -> tuple[Solid, ...]:
    """Return a trunk with a crown of two cones (40 %) or three spheres."""
    radius, top = size[0] / 2, size[2]
    trunk = make_upright("cylinder", 0, 0, 0, 0.5 * top, 0.15 * radius, albedo=to_linear(BARK))
    leaves = {"albedo": to_linear(colour), "foliage": 1.0}
    if rng.random_sample() < 0.4:
        low = make_upright("cone", 0, 0, 0.18 * top, 0.72 * top, radius, **leaves)
        return trunk, low, make_upright("cone", 0, 0, 0.48 * top, top, 0.74 * radius, **leaves)
    angle, r = rng.uniform(0, 2 * np.pi), 0.66 * radius
    crown = Solid("sphere", (0.0, 0.0, top - 0.8 * radius), (0.8 * radius,) * 3, **leaves)
    sides = [(0.34 * radius * cos(angle + a), 0.34 * radius * sin(angle + a), top - 1.3 * radius) for a in (0.0, np.pi)]
    return trunk, crown, *(Solid("sphere", side, (r,) * 3, **leaves) for side in sides)


def build_house(rng, colour, size) -> tuple[Solid, ...]:
    """Return walls, gable, roof, door and window panes of a house."""
    x, y, z = size[0] / 2, size[1] / 2, size[2]
    eaves, rim, out = 0.58 * z, 0.14, 0.05
    wall_x, wall_y = x - rim, y - rim
    walls = make_prism((-wall_x, -wall_y, 0), (wall_x, wall_y, eaves), albedo=to_linear(colour))
    gable = make_prism((-wall_x, -wall_y, eaves), (wall_x, wall_y, 0.95 * z), (0, wall_y), albedo=to_linear(colour))
    # Slate on red and orange walls, against which brick would hardly show.
    cover = SLATE if colour[0] > 0.7 and colour[1] < 0.6 else BRICK
    roof = make_prism((-x, -y, eaves - 0.03), (x, y, z), (0, y), albedo=to_linear(cover))
    door = make_prism((-wall_x - out, -0.17 * y, 0), (wall_x + out, 0.17 * y, 0.72 * eaves), albedo=to_linear(WOOD))
    panes = {"albedo": to_linear(PANE), "glow": 1.0, "gloss": 0.4}
    low, high, through_x, through_y = 0.40 * eaves, 0.76 * eaves, wall_x + out, wall_y + out
    windows = []
    # A pane extends through the whole house and shows on both of its sides.
    for side in (-1, 1):
        ends = (-through_x, side * 0.6 * y - 0.19 * y, low), (through_x, side * 0.6 * y + 0.19 * y, high)
        windows.append(make_prism(*ends, **panes))
        ends = (side * 0.45 * x - 0.2 * x, -through_y, low), (side * 0.45 * x + 0.2 * x, through_y, high)
        windows.append(make_prism(*ends, **panes))
    return walls, gable, roof, door, *windows


def build_car(rng, colour, size) -> tuple[Solid, ...]:
    """Return body, cabin, roof, lamps and wheels of a car."""
    x, y, z = size[0] / 2, size[1] / 2, size[2]
    wheel, belt, side = 0.24 * z, 0.60 * z, y - 0.03
    coat = {"albedo": to_linear(colour), "gloss": 0.1}
    body = make_prism((-x, -side, 0.6 * wheel), (x, side, belt), (0.05 * x, 0.04 * y), **coat)
    # As wide as the body's top: a ledge of a few centimetres would be rendered as a dotted line.
    wide = side - 0.04 * y
    cabin = (-0.72 * x, -wide, belt), (0.48 * x, wide, 0.93 * z), (0.2 * x, 0.18 * y)
    glass = make_prism(*cabin, albedo=to_linear(GLASS), gloss=0.6)
    roof = make_prism((-0.53 * x, -0.78 * side, 0.92 * z), (0.29 * x, 0.78 * side, z), **coat)
    lamp = {"albedo": to_linear(HEADLAMP), "glow": 1.0}
    front = make_prism((0.9 * x, -0.86 * side, 0.36 * z), (x, 0.86 * side, 0.47 * z), **lamp)
    lamp = {"albedo": to_linear((0.7, 0.06, 0.06)), "glow": 0.3}
    back = make_prism((-x, -0.86 * side, 0.36 * z), (-0.9 * x, 0.86 * side, 0.47 * z), **lamp)
    tyre = Solid("cylinder", (0.0, 0.0, wheel), (wheel, 0.1, wheel), axis=(0.0, 1.0, 0.0), albedo=to_linear(TYRE))
    wheels = [replace(tyre, centre=(i * 0.62 * x, j * (y - 0.1), wheel)) for i in (-1, 1) for j in (-1, 1)]
    return body, glass, roof, front, back, *wheels


BUILDERS = {
    "ball": build_ball,
    "box": build_box,
    "pillar": build_pillar,
    "tree": build_tree,
    "house": build_house,
    "car": build_car,
}


def place_solid(solid: Solid, position: tuple[float, float], yaw: float) -> Solid:
    """Return a solid that was built at the origin, turned by `yaw` radians and moved to `position`.

    Its planes turn and move with it.
    """
    c, s = cos(yaw), sin(yaw)
    rotation = np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])
    centre = rotation @ solid.centre + (*position, 0.0)
    normals = solid.planes[:, :3] @ rotation.T
    planes = np.column_stack([normals, solid.planes[:, 3] + normals @ centre])
    return replace(solid, centre=tuple(centre), yaw=yaw, axis=tuple(rotation @ solid.axis), planes=planes)


def build_solids(rng: np.random.RandomState, obj: SceneObject) -> SceneObject:
    """Return the object with its solids. A separate step, so that a position can be rejected before it is built."""
    solids = BUILDERS[obj.kind](rng, COLOURS[obj.colour], obj.dimensions)
    return replace(obj, solids=tuple(place_solid(solid, obj.position, obj.yaw) for solid in solids))
