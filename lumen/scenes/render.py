"""From a seed to a picture with everything that is known about it: labels, depth, boxes, graph and captions."""

from dataclasses import dataclass

import numpy as np

from lumen.scenes.camera import Camera
from lumen.scenes.captions import captions, describe
from lumen.scenes.ground import ground_light
from lumen.scenes.ray_casting import Hits, Vector, along, crop, dot, trace
from lumen.scenes.sky import MOODS, sky_light, snowfall
from lumen.scenes.texture import blend, noise
from lumen.scenes.world import CLASSES, World, seen, world


@dataclass(frozen=True, eq=False)
class Scene:
    """A rendered scene. Boxes and graph list the objects in the order of their ids, from 1.

    image: (H, W, 3) uint8 RGB.
    semantic: (H, W) uint8, positions in `CLASSES`.
    instance: (H, W) uint8, the object's id, 0 for ground and sky.
    depth: (H, W) float32, metres along the optical axis, inf in the sky.
    disparity: (H, W) float32, pixels, 0 in the sky.
    boxes_2d: per object "modal", the box around what is seen of it; "amodal", the box around its 3D box, cut off at the
        image's edge; both [x, y, w, h] in whole pixels; and "truncation", the share of the uncut one that lies outside.
    boxes_3d: per object "center", "dimensions" (length, width, height) and "rotation" (quaternion w, x, y, z) in metres
        in the vehicle frame: x forward, y left, z up.
    graph: plain values for JSON, see `words.describe`. captions: five sentences, see `words.captions`.

    Labels, depth and boxes are those of the ray through each pixel's centre.
    """

    seed: int
    image: np.ndarray
    semantic: np.ndarray
    instance: np.ndarray
    depth: np.ndarray
    disparity: np.ndarray
    camera: Camera
    boxes_2d: tuple[dict, ...]
    boxes_3d: tuple[dict, ...]
    graph: dict
    captions: tuple[str, ...]


def reflected(made: World, camera: Camera, below: Vector, first: int) -> np.ndarray:
    """What still water mirrors: the world as an eye as far below the surface as the camera is above would see it."""
    eye, d = (0.0, 0.0, -camera.height), (below[0], below[1], -below[2])
    # Waves would blur stars away.
    light = sky_light(made, d, starry=False)
    shape = light.shape[1:]
    # Through that eye a body appears where the camera sees its image in the ground.
    windows = camera.windows(np.stack([solid.corners() for solid in made.solids]) * (1, 1, -1), shape, first)
    hits = trace(made.solids, [0] * len(made.solids), eye, d, windows, shape)
    return shaded(made, hits, eye, d, light)


def shaded(made: World, hits: Hits, o: Vector, d: Vector, light: np.ndarray) -> np.ndarray:
    """`light` (3, h, w) with the solids that were hit painted over it."""
    rows, cols = np.nonzero(hits.solid >= 0)
    which, t, n = hits.solid[rows, cols], hits.t[rows, cols], hits.normal[:, rows, cols]
    d = tuple(np.broadcast_to(x, hits.t.shape)[rows, cols] for x in d)
    p, mood, lit = along(o, d, t), MOODS[made.sky], made.light
    paint = np.array([s.paint for s in made.solids])[which].T
    gloss, leafy, glowing = (
        np.array([getattr(s, name) for s in made.solids])[which] for name in ("gloss", "leafy", "glow")
    )
    # Snow and frost settle on what faces up.
    paint = blend(paint, 0.85, 0.6 * mood.snow * np.clip(2.5 * n[2] - 1.2, 0, 1))
    paint = paint * (1 + leafy * 0.4 * (noise(1.8 * (p[0] + p[1]), 1.8 * (p[2] + p[1] - p[0])) - 0.5))
    facing = np.maximum(dot(n, lit), 0)
    # Half of the sky lights a wall, all of it a roof; the ground gives a little back.
    around = 0.68 + 0.32 * n[2]
    colour = paint * (np.array(mood.sun)[:, None] * facing + np.array(mood.ambient)[:, None] * around)
    # The highlight is where the mirror direction of the ray meets the light.
    bounce = (2 * dot(d, n) * dot(n, lit) - dot(d, lit)) / -np.sqrt(dot(d, d))
    colour = colour + gloss * np.array(mood.sun)[:, None] * np.clip(bounce, 0, 1) ** 16
    if made.sky in ("night", "sunset"):
        colour = blend(colour, np.array((0.95, 0.72, 0.34))[:, None] * paint.max(0), 0.9 * glowing)
    far = 1 - np.exp(-t / mood.haze)
    out = light.copy()
    out[:, rows, cols] = blend(colour, np.array(mood.horizon)[:, None], far)
    return out


def painted(made: World, camera: Camera, hits: Hits, directions: Vector) -> np.ndarray:
    """The picture (H, W, 3) uint8."""
    first = int(np.argmax(directions[2] < 0))
    above, below = crop(directions, np.s_[:first, :]), crop(directions, np.s_[first:, :])
    mirror = reflected(made, camera, below, first) if made.ground == "water" else None
    light = np.concatenate([sky_light(made, above), ground_light(made, camera, below, mirror)], axis=1)
    light = shaded(made, hits, (0.0, 0.0, camera.height), directions, light)
    if made.sky == "snow":
        light = snowfall(made, camera, light)
    return developed(np.clip(light, 0, 1))


def developed(light: np.ndarray) -> np.ndarray:
    """Half-pixel samples (3, 2H + 1, 2W + 1) of linear light to RGB bytes.

    Each pixel is the tent-weighted mean of the 3 x 3 samples around its centre: samples on edges are shared with the
    neighbours, so 2 x 2 as many rays give 3 x 3 samples, and the picture is exactly centred on the labels.
    """
    rows = (light[:, :-1:2] + light[:, 2::2]) / 4 + light[:, 1::2] / 2
    pixels = (rows[:, :, :-1:2] + rows[:, :, 2::2]) / 4 + rows[:, :, 1::2] / 2
    return np.ascontiguousarray(np.rint(255 * np.sqrt(pixels)).astype(np.uint8).transpose(1, 2, 0))


def boxes_2d(made: World, camera: Camera, instance: np.ndarray) -> tuple[dict, ...]:
    """As `Scene.boxes_2d`."""
    h, w = instance.shape
    boxes = []
    for k, t in enumerate(made.things, 1):
        u, v, _ = camera.project(t.corners())
        whole = np.floor([u.min(), v.min()]), np.ceil([u.max(), v.max()])
        (left, top), (right, bottom) = (np.clip(corner, 0, (w, h)).astype(int).tolist() for corner in whole)
        rows, cols = np.nonzero(instance == k)
        modal = (
            [int(cols.min()), int(rows.min()), int(np.ptp(cols)) + 1, int(np.ptp(rows)) + 1]
            if len(rows)
            else [0, 0, 0, 0]
        )
        amodal = [left, top, right - left, bottom - top]
        outside = 1 - amodal[2] * amodal[3] / float(np.prod(whole[1] - whole[0]))
        boxes.append({"modal": modal, "amodal": amodal, "truncation": round(outside, 4)})
    return tuple(boxes)


def boxes_3d(made: World) -> tuple[dict, ...]:
    return tuple(
        {
            "center": [float(x) for x in t.centre],
            "dimensions": [float(x) for x in t.dimensions],
            "rotation": [float(np.cos(t.yaw / 2)), 0.0, 0.0, float(np.sin(t.yaw / 2))],
        }
        for t in made.things
    )


def render(seed: int, size: int | tuple[int, int] = 64) -> Scene:
    """The scene of `seed`, `size` pixels high and wide (one number, or H and W)."""
    size = (size, size) if isinstance(size, int) else tuple(size)
    made = world(seed)
    camera = made.camera(size)
    directions, shape = camera.grid(size)
    hits = seen(made.things, camera, directions, shape)
    # A ray sinks -z metres per metre of depth, so it reaches the ground at height / -z.
    plane = np.where(directions[2] < 0, camera.height / np.maximum(-directions[2], 1e-9), np.inf)
    depth = np.minimum(hits.t, plane)
    centre = (slice(1, None, 2), slice(1, None, 2))
    owner = np.array([i for i, t in enumerate(made.things, 1) for _ in t.solids] + [0], np.uint8)
    instance = owner[hits.solid[centre]]
    kinds = np.array([0, *(CLASSES.index(t.kind) for t in made.things)], np.uint8)
    below = np.where(np.isfinite(plane[centre[0]]), CLASSES.index(made.ground), 0).astype(np.uint8)
    semantic = np.where(instance > 0, kinds[instance], below)
    image = painted(made, camera, hits, directions)
    shown = depth[centre]
    disparity = camera.baseline * camera.fx / shown
    graph = describe(made, instance, hits.silhouette[:, centre[0], centre[1]])
    return Scene(
        seed, image, semantic, instance, shown.astype(np.float32), disparity.astype(np.float32),
        camera, boxes_2d(made, camera, instance), boxes_3d(made), graph, captions(graph),
    )  # fmt: skip
