"""Ray casting in numpy: first hits of rays with spheres, cylinders, cones and convex solids.

Every intersection takes origins `o` and directions `d` as three arrays (x, y, z) that broadcast together. It returns
the ray parameter of the first hit (inf without a hit) and the outward normal there. Hits are computed in closed form.
"""

from dataclasses import dataclass, field

import numpy as np

Vector = tuple[np.ndarray | float, np.ndarray | float, np.ndarray | float]
Window = tuple[slice, slice]


@dataclass(frozen=True)
class Solid:
    """Primitive shape with its position and material.

    Attributes:
        shape: A key of `INTERSECTIONS`.
        centre: Position in metres in the vehicle frame.
        half: Half of the extent along each axis, in metres.
        yaw: Angle about the vertical, in radians.
        axis: Axis of a cylinder.
        planes: Faces (n, 4) of a convex solid: outward normal and offset.
        albedo: Colour as linear RGB.
        gloss: Strength of the highlight.
        foliage: Strength of the leaf texture.
        glow: Share of the light of a lamp at sunset and at night.
    """

    shape: str
    centre: tuple[float, float, float]
    half: tuple[float, float, float]
    yaw: float = 0.0
    axis: Vector = (0.0, 0.0, 1.0)
    planes: np.ndarray = field(default_factory=lambda: np.empty((0, 4)), compare=False)
    albedo: tuple[float, float, float] = (1.0, 1.0, 1.0)
    gloss: float = 0.0
    foliage: float = 0.0
    glow: float = 0.0

    def corners(self) -> np.ndarray:
        """Return the 8 corners (8, 3) of the oriented box around the solid."""
        signs = np.array([(i, j, k) for i in (-1, 1) for j in (-1, 1) for k in (-1, 1)], float)
        x, y, z = (signs * self.half).T
        c, s = np.cos(self.yaw), np.sin(self.yaw)
        return np.stack([c * x - s * y, s * x + c * y, z], axis=-1) + self.centre


@dataclass
class Hits:
    """First hit of each ray.

    Attributes:
        t: Ray parameter (h, w); inf without a hit.
        solid: Index (h, w) of the solid; -1 without a hit.
        normal: Outward normal (3, h, w).
        silhouette: Pixels (owners, h, w) that each owner would cover if it stood alone.
    """

    t: np.ndarray
    solid: np.ndarray
    normal: np.ndarray
    silhouette: np.ndarray


def dot(a: Vector, b: Vector) -> np.ndarray | float:
    """Return the scalar product of two vectors."""
    # x and z first: for camera rays both vary by row only, so only the last + is as large as the image.
    return (a[0] * b[0] + a[2] * b[2]) + a[1] * b[1]


def point_at(o: Vector, d: Vector, t: np.ndarray) -> Vector:
    """Return the points at parameter `t` of rays."""
    return tuple(oi + t * di for oi, di in zip(o, d, strict=True))


def subtract(o: Vector, c: Vector) -> Vector:
    """Return the difference of two vectors."""
    return tuple(oi - ci for oi, ci in zip(o, c, strict=True))


def crop(v: Vector, window: Window) -> Vector:
    """Return the part of `v` inside a window; an axis along which a component is constant keeps its length of 1."""
    whole = slice(None)
    return tuple(
        c if np.ndim(c) == 0 else c[window[0] if c.shape[0] > 1 else whole, window[1] if c.shape[1] > 1 else whole]
        for c in v
    )


def quadratic_roots(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the roots of a t² + 2 b t + c, with -sqrt first.

    Without real roots the result is NaN, which fails every comparison.
    """
    spread = np.sqrt(b * b - a * c)
    return (-b - spread) / a, (-b + spread) / a


def intersect_sphere(o: Vector, d: Vector, solid: Solid) -> tuple[np.ndarray, Vector]:
    """Return the first hit with a sphere and its normal."""
    w, radius = subtract(o, solid.centre), solid.half[0]
    t, _ = quadratic_roots(dot(d, d), dot(w, d), dot(w, w) - radius**2)
    normal = tuple(x / radius for x in point_at(w, d, t))
    return np.where(t > 0, t, np.inf), normal


def intersect_cylinder(o: Vector, d: Vector, solid: Solid) -> tuple[np.ndarray, Vector]:
    """Return the first hit with a capped cylinder and its normal.

    The hit interval is the interval inside the infinite cylinder, intersected with the interval between the caps.
    """
    axis, radius, reach = solid.axis, solid.half[0], solid.half[2] if solid.axis[2] else solid.half[1]
    w = subtract(o, solid.centre)
    da, wa = dot(d, axis), dot(w, axis)
    near, far = quadratic_roots(dot(d, d) - da * da, dot(w, d) - wa * da, dot(w, w) - wa * wa - radius**2)
    cap_near, cap_far = (-wa - np.copysign(reach, da)) / da, (-wa + np.copysign(reach, da)) / da
    t = np.maximum(near, cap_near)
    hit = (t < np.minimum(far, cap_far)) & (t > 0)
    on_cap, cap_sign = cap_near > near, -np.sign(da)
    p, h = point_at(w, d, t), wa + t * da
    normal = tuple(np.where(on_cap, cap_sign * ai, (pi - h * ai) / radius) for pi, ai in zip(p, axis, strict=True))
    return np.where(hit, t, np.inf), normal


def intersect_cone(o: Vector, d: Vector, solid: Solid) -> tuple[np.ndarray, Vector]:
    """Return the first hit with an upright cone, tip up, and its normal: the nearer of mantle and base."""
    (x, y, z), (radius, _, half) = solid.centre, solid.half
    w = subtract(o, (x, y, z + half))
    slope = (radius / (2 * half)) ** 2
    a = dot(d, d) - (1 + slope) * d[2] * d[2]
    b = dot(w, d) - (1 + slope) * w[2] * d[2]
    c = dot(w, w) - (1 + slope) * w[2] * w[2]
    mantle = np.full(np.broadcast_shapes(np.shape(a), np.shape(b), np.shape(c)), np.inf)
    for t in quadratic_roots(a, b, c):
        height = w[2] + t * d[2]
        np.copyto(mantle, t, where=(t > 0) & (t < mantle) & (height < 0) & (height > -2 * half))
    base = (-2 * half - w[2]) / d[2] + np.zeros_like(mantle)
    bx, by = w[0] + base * d[0], w[1] + base * d[1]
    base[~((bx * bx + by * by < radius**2) & (base > 0))] = np.inf
    t = np.minimum(mantle, base)
    p = point_at(w, d, np.where(np.isfinite(t), t, 0.0))
    length = np.sqrt(p[0] ** 2 + p[1] ** 2 + (slope * p[2]) ** 2) + 1e-12
    on_base = base < mantle
    return t, tuple(
        np.where(on_base, e, q / length) for e, q in zip((0.0, 0.0, -1.0), (p[0], p[1], -slope * p[2]), strict=True)
    )


def intersect_convex(o: Vector, d: Vector, solid: Solid) -> tuple[np.ndarray, Vector]:
    """Return the first hit with a convex solid and its normal.

    A ray is inside after its last entry and before its first exit through the planes n·p <= e, given as rows
    (nx, ny, nz, e).
    """
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


INTERSECTIONS = {
    "sphere": intersect_sphere,
    "cylinder": intersect_cylinder,
    "cone": intersect_cone,
    "convex": intersect_convex,
}


def cast_rays(
    solids: list[Solid], owners: list[int], o: Vector, d: Vector, windows: list[Window], shape: tuple[int, int]
) -> Hits:
    """Return the first hit of every ray of an h x w grid.

    Args:
        solids: Solids of the scene.
        owners: Index of the object that each solid belongs to.
        windows: Part of the grid in which each solid is searched for.
        shape: Height and width of the grid.
    """
    hits = Hits(
        np.full(shape, np.inf),
        np.full(shape, -1, np.int16),
        np.zeros((3, *shape)),
        np.zeros((max(owners) + 1, *shape), bool),
    )
    with np.errstate(all="ignore"):
        for i, (solid, window) in enumerate(zip(solids, windows, strict=True)):
            t, normal = INTERSECTIONS[solid.shape](crop(o, window), crop(d, window), solid)
            nearest = hits.t[window]
            closer = t < nearest
            np.copyto(nearest, t, where=closer)
            np.copyto(hits.solid[window], i, where=closer)
            for plane, n in zip(hits.normal, normal, strict=True):
                np.copyto(plane[window], n, where=closer)
            hits.silhouette[owners[i]][window] |= t < np.inf
    return hits
