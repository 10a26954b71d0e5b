"""Ray casting in numpy: where rays first meet spheres, cylinders, cones and convex solids.

Every function takes origins `o` and directions `d` as three arrays (x, y, z) that broadcast together, and returns the
ray parameter of the first hit (inf where there is none) with the outward normal there. Hits are exact, not marched to.
"""

from dataclasses import dataclass, field

import numpy as np

Vector = tuple[np.ndarray | float, np.ndarray | float, np.ndarray | float]
Rect = tuple[slice, slice]


@dataclass(frozen=True)
class Solid:
    """One primitive: its shape, place and paint. Lengths are metres in the vehicle frame, colours linear RGB."""

    shape: str
    centre: tuple[float, float, float]
    half: tuple[float, float, float]
    yaw: float = 0.0
    axis: Vector = (0.0, 0.0, 1.0)
    planes: np.ndarray = field(default_factory=lambda: np.empty((0, 4)), compare=False)
    paint: tuple[float, float, float] = (1.0, 1.0, 1.0)
    gloss: float = 0.0
    leafy: float = 0.0
    glow: float = 0.0

    def corners(self) -> np.ndarray:
        """The 8 corners (8, 3) of the oriented box around the solid."""
        signs = np.array([(i, j, k) for i in (-1, 1) for j in (-1, 1) for k in (-1, 1)], float)
        x, y, z = (signs * self.half).T
        c, s = np.cos(self.yaw), np.sin(self.yaw)
        return np.stack([c * x - s * y, s * x + c * y, z], axis=-1) + self.centre


@dataclass
class Hits:
    """What each ray meets first: parameter `t`, index of the `solid` (-1: none), `normal` (3, h, w), and what it would
    meet if an owner stood alone: `silhouette` (owners, h, w)."""

    t: np.ndarray
    solid: np.ndarray
    normal: np.ndarray
    silhouette: np.ndarray


def dot(a: Vector, b: Vector) -> np.ndarray | float:
    # x and z first: for camera rays both vary by row only, so only the last + is as large as the image.
    return (a[0] * b[0] + a[2] * b[2]) + a[1] * b[1]


def along(o: Vector, d: Vector, t: np.ndarray) -> Vector:
    return tuple(oi + t * di for oi, di in zip(o, d, strict=True))


def minus(o: Vector, c: Vector) -> Vector:
    return tuple(oi - ci for oi, ci in zip(o, c, strict=True))


def crop(v: Vector, rect: Rect) -> Vector:
    """The part of `v` inside `rect`; an axis along which a component is constant stays of length 1."""
    whole = slice(None)
    return tuple(
        c if np.ndim(c) == 0 else c[rect[0] if c.shape[0] > 1 else whole, rect[1] if c.shape[1] > 1 else whole]
        for c in v
    )


def roots(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where a t² + 2 b t + c is zero, in the order of ±sqrt; NaN where it never is, which no comparison accepts."""
    spread = np.sqrt(b * b - a * c)
    return (-b - spread) / a, (-b + spread) / a


def sphere(o: Vector, d: Vector, solid: Solid) -> tuple[np.ndarray, Vector]:
    w, radius = minus(o, solid.centre), solid.half[0]
    t, _ = roots(dot(d, d), dot(w, d), dot(w, w) - radius**2)
    normal = tuple(x / radius for x in along(w, d, t))
    return np.where(t > 0, t, np.inf), normal


def cylinder(o: Vector, d: Vector, solid: Solid) -> tuple[np.ndarray, Vector]:
    """A capped cylinder: the stretch of the ray inside the endless pipe, cut by the stretch between the caps."""
    axis, radius, reach = solid.axis, solid.half[0], solid.half[2] if solid.axis[2] else solid.half[1]
    w = minus(o, solid.centre)
    da, wa = dot(d, axis), dot(w, axis)
    near, far = roots(dot(d, d) - da * da, dot(w, d) - wa * da, dot(w, w) - wa * wa - radius**2)
    cap_near, cap_far = (-wa - np.copysign(reach, da)) / da, (-wa + np.copysign(reach, da)) / da
    t = np.maximum(near, cap_near)
    hit = (t < np.minimum(far, cap_far)) & (t > 0)
    capped, side = cap_near > near, -np.sign(da)
    p, h = along(w, d, t), wa + t * da
    normal = tuple(np.where(capped, side * ai, (pi - h * ai) / radius) for pi, ai in zip(p, axis, strict=True))
    return np.where(hit, t, np.inf), normal


def cone(o: Vector, d: Vector, solid: Solid) -> tuple[np.ndarray, Vector]:
    """An upright cone, point up: the nearer of its mantle and its round base."""
    (x, y, z), (radius, _, half) = solid.centre, solid.half
    w = minus(o, (x, y, z + half))
    slope = (radius / (2 * half)) ** 2
    a = dot(d, d) - (1 + slope) * d[2] * d[2]
    b = dot(w, d) - (1 + slope) * w[2] * d[2]
    c = dot(w, w) - (1 + slope) * w[2] * w[2]
    mantle = np.full(np.broadcast_shapes(np.shape(a), np.shape(b), np.shape(c)), np.inf)
    for t in roots(a, b, c):
        height = w[2] + t * d[2]
        np.copyto(mantle, t, where=(t > 0) & (t < mantle) & (height < 0) & (height > -2 * half))
    base = (-2 * half - w[2]) / d[2] + np.zeros_like(mantle)
    bx, by = w[0] + base * d[0], w[1] + base * d[1]
    base[~((bx * bx + by * by < radius**2) & (base > 0))] = np.inf
    t = np.minimum(mantle, base)
    p = along(w, d, np.where(np.isfinite(t), t, 0.0))
    length = np.sqrt(p[0] ** 2 + p[1] ** 2 + (slope * p[2]) ** 2) + 1e-12
    below = base < mantle
    return t, tuple(
        np.where(below, e, q / length) for e, q in zip((0.0, 0.0, -1.0), (p[0], p[1], -slope * p[2]), strict=True)
    )


def convex(o: Vector, d: Vector, solid: Solid) -> tuple[np.ndarray, Vector]:
    """A solid cut out by planes n·p <= e, rows (nx, ny, nz, e): after the last entry, before the first exit."""
    near = face = far = None
    for k, (nx, ny, nz, e) in enumerate(solid.planes):
        closing = dot(d, (nx, ny, nz))
        t = (e - dot(o, (nx, ny, nz))) / closing
        entry, leave = np.where(closing < 0, t, -np.inf), np.where(closing > 0, t, np.inf)
        if near is None:
            near, far, face = entry, leave, np.zeros(np.shape(t), np.intp)
        else:
            face = np.where(entry > near, k, face)
            near, far = np.maximum(near, entry), np.minimum(far, leave)
    normal = solid.planes[:, :3].T[:, face]
    return np.where((near < far) & (near > 0), near, np.inf), tuple(normal)


SHAPES = {"sphere": sphere, "cylinder": cylinder, "cone": cone, "convex": convex}


def trace(
    solids: list[Solid], owners: list[int], o: Vector, d: Vector, rects: list[Rect], shape: tuple[int, int]
) -> Hits:
    """The first hit of every ray of an h x w grid; solid i is looked for in `rects[i]` and belongs to `owners[i]`."""
    hits = Hits(
        np.full(shape, np.inf),
        np.full(shape, -1, np.int16),
        np.zeros((3, *shape)),
        np.zeros((max(owners) + 1, *shape), bool),
    )
    with np.errstate(all="ignore"):
        for i, (solid, rect) in enumerate(zip(solids, rects, strict=True)):
            t, normal = SHAPES[solid.shape](crop(o, rect), crop(d, rect), solid)
            nearest = hits.t[rect]
            first = t < nearest
            np.copyto(nearest, t, where=first)
            np.copyto(hits.solid[rect], i, where=first)
            for plane, n in zip(hits.normal, normal, strict=True):
                np.copyto(plane[rect], n, where=first)
            hits.silhouette[owners[i]][rect] |= t < np.inf
    return hits
