"""Renderer: a seed to an image with exact labels, depth, boxes, scene graph and captions."""

from dataclasses import dataclass

import numpy as np

from lumen.scenes.camera import Camera
from lumen.scenes.captions import build_graph, compose_captions
from lumen.scenes.ground import shade_ground
from lumen.scenes.ray_casting import Hits, Vector, cast_rays, crop, dot, point_at
from lumen.scenes.sky import ATMOSPHERES, add_snowfall, shade_sky
from lumen.scenes.texture import lerp, value_noise
from lumen.scenes.world import CLASSES, World, sample_world, trace_objects


@dataclass(frozen=True, eq=False)
class Scene:
    """Rendered scene. Labels, depth and boxes are those of the ray through each pixel's centre.

    Attributes:
        seed: Seed of the scene.
        image: (H, W, 3) uint8 RGB.
        semantic: (H, W) uint8, positions in `CLASSES`.
        instance: (H, W) uint8, the object's id, 0 for ground and sky.
        depth: (H, W) float32, metres along the optical axis, inf in the sky.
        disparity: (H, W) float32, pixels, 0 in the sky.
        camera: Camera of the image.
        boxes_2d: Per object, in the order of ids from 1. "modal" is the box around its visible pixels. "amodal" is the
            box around its 3D box, cut off at the edge of the image. Both are [x, y, w, h] in whole pixels.
            "truncation" is the share of the uncut box that lies outside.
        boxes_3d: Per object "center", "dimensions" (length, width, height) and "rotation" (quaternion w, x, y, z) in
            metres in the vehicle frame: x forward, y left, z up.
        graph: Scene graph of plain values for JSON, see `captions.build_graph`.
        captions: Five sentences, see `captions.compose_captions`.
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


def render_reflection(world: World, camera: Camera, below: Vector, first_row: int) -> np.ndarray:
    """Return the light (3, h, w) that still water reflects.

    It is the view of an eye as far below the surface as the camera is above.
    """
    eye, d = (0.0, 0.0, -camera.height), (below[0], below[1], -below[2])
    # Waves would blur stars away.
    light = shade_sky(world, d, stars=False)
    shape = light.shape[1:]
    # Through that eye a body appears where the camera sees its mirror image in the ground.
    corners = np.stack([solid.corners() for solid in world.solids]) * (1, 1, -1)
    windows = camera.bounding_windows(corners, shape, first_row)
    hits = cast_rays(world.solids, [0] * len(world.solids), eye, d, windows, shape)
    return shade_solids(world, hits, eye, d, light)


def shade_solids(world: World, hits: Hits, o: Vector, d: Vector, light: np.ndarray) -> np.ndarray:
    """Return `light` (3, h, w) with the shaded solids in front of it."""
    rows, cols = np.nonzero(hits.solid >= 0)
    index, t, n = hits.solid[rows, cols], hits.t[rows, cols], hits.normal[:, rows, cols]
    d = tuple(np.broadcast_to(x, hits.t.shape)[rows, cols] for x in d)
    p, atmosphere, towards_light = point_at(o, d, t), ATMOSPHERES[world.sky], world.light
    albedo = np.array([solid.albedo for solid in world.solids])[index].T
    gloss, foliage, glow = (
        np.array([getattr(solid, name) for solid in world.solids])[index] for name in ("gloss", "foliage", "glow")
    )
    # Snow and frost settle on what faces up.
    albedo = lerp(albedo, 0.85, 0.6 * atmosphere.snow * np.clip(2.5 * n[2] - 1.2, 0, 1))
    leaves = value_noise(1.8 * (p[0] + p[1]), 1.8 * (p[2] + p[1] - p[0])) - 0.5
    albedo = albedo * (1 + foliage * 0.4 * leaves)
    sun, ambient = np.array(atmosphere.sun)[:, None], np.array(atmosphere.ambient)[:, None]
    facing = np.maximum(dot(n, towards_light), 0)
    # Half of the sky lights a wall, all of it a roof; the ground reflects a little light upwards.
    exposure = 0.68 + 0.32 * n[2]
    colour = albedo * (sun * facing + ambient * exposure)
    # The highlight appears where the mirror direction of the ray meets the light.
    bounce = (2 * dot(d, n) * dot(n, towards_light) - dot(d, towards_light)) / -np.sqrt(dot(d, d))
    colour = colour + gloss * sun * np.clip(bounce, 0, 1) ** 16
    if world.sky in ("night", "sunset"):
        colour = lerp(colour, np.array((0.95, 0.72, 0.34))[:, None] * albedo.max(0), 0.9 * glow)
    haze = 1 - np.exp(-t / atmosphere.haze)
    shaded = light.copy()
    shaded[:, rows, cols] = lerp(colour, np.array(atmosphere.horizon)[:, None], haze)
    return shaded


def render_image(world: World, camera: Camera, hits: Hits, directions: Vector) -> np.ndarray:
    """Return the image (H, W, 3) as uint8."""
    horizon = int(np.argmax(directions[2] < 0))
    above, below = crop(directions, np.s_[:horizon, :]), crop(directions, np.s_[horizon:, :])
    mirror = render_reflection(world, camera, below, horizon) if world.ground == "water" else None
    light = np.concatenate([shade_sky(world, above), shade_ground(world, camera, below, mirror)], axis=1)
    light = shade_solids(world, hits, (0.0, 0.0, camera.height), directions, light)
    if world.sky == "snow":
        light = add_snowfall(world, camera, light)
    return downsample(np.clip(light, 0, 1))


def downsample(light: np.ndarray) -> np.ndarray:
    """Return half-pixel samples (3, 2H + 1, 2W + 1) of linear light as RGB bytes.

    Each pixel is the tent-weighted mean of the 3 x 3 samples around its centre, so the image is exactly centred on the
    labels. Neighbours share the samples on their edges, so 2 x 2 times as many rays give 3 x 3 samples.
    """
    rows = (light[:, :-1:2] + light[:, 2::2]) / 4 + light[:, 1::2] / 2
    pixels = (rows[:, :, :-1:2] + rows[:, :, 2::2]) / 4 + rows[:, :, 1::2] / 2
    return np.ascontiguousarray(np.rint(255 * np.sqrt(pixels)).astype(np.uint8).transpose(1, 2, 0))


def compute_boxes_2d(world: World, camera: Camera, instance: np.ndarray) -> tuple[dict, ...]:
    """Return the boxes of `Scene.boxes_2d`."""
    h, w = instance.shape
    boxes = []
    for k, obj in enumerate(world.objects, 1):
        u, v, _ = camera.project(obj.corners())
        uncut = np.floor([u.min(), v.min()]), np.ceil([u.max(), v.max()])
        (left, top), (right, bottom) = (np.clip(corner, 0, (w, h)).astype(int).tolist() for corner in uncut)
        rows, cols = np.nonzero(instance == k)
        modal = [0, 0, 0, 0]
        if len(rows):
            modal = [int(cols.min()), int(rows.min()), int(np.ptp(cols)) + 1, int(np.ptp(rows)) + 1]
        amodal = [left, top, right - left, bottom - top]
        outside = 1 - amodal[2] * amodal[3] / float(np.prod(uncut[1] - uncut[0]))
        boxes.append({"modal": modal, "amodal": amodal, "truncation": round(outside, 4)})
    return tuple(boxes)


def compute_boxes_3d(world: World) -> tuple[dict, ...]:
    """Return the boxes of `Scene.boxes_3d`."""
    return tuple(
        {
            "center": [float(x) for x in obj.centre],
            "dimensions": [float(x) for x in obj.dimensions],
            "rotation": [float(np.cos(obj.yaw / 2)), 0.0, 0.0, float(np.sin(obj.yaw / 2))],
        }
        for obj in world.objects
    )


def render(seed: int, size: int | tuple[int, int] = 64) -> Scene:
    """Return the scene of a seed.

    Args:
        size: Side of the image in pixels, or height and width.
    """
    size = (size, size) if isinstance(size, int) else tuple(size)
    world = sample_world(seed)
    camera = world.camera(size)
    directions, shape = camera.half_pixel_rays(size)
    hits = trace_objects(world.objects, camera, directions, shape)
    # A ray sinks -z metres per metre of depth, so it reaches the ground at height / -z.
    plane = np.where(directions[2] < 0, camera.height / np.maximum(-directions[2], 1e-9), np.inf)
    centres = (slice(1, None, 2), slice(1, None, 2))
    owner = np.array([i for i, obj in enumerate(world.objects, 1) for _ in obj.solids] + [0], np.uint8)
    instance = owner[hits.solid[centres]]
    kinds = np.array([0, *(CLASSES.index(obj.kind) for obj in world.objects)], np.uint8)
    background = np.where(np.isfinite(plane[centres[0]]), CLASSES.index(world.ground), 0).astype(np.uint8)
    semantic = np.where(instance > 0, kinds[instance], background)
    image = render_image(world, camera, hits, directions)
    depth = np.minimum(hits.t, plane)[centres]
    disparity = camera.baseline * camera.fx / depth
    graph = build_graph(world, instance, hits.silhouette[:, centres[0], centres[1]])
    return Scene(
        seed, image, semantic, instance, depth.astype(np.float32), disparity.astype(np.float32), camera,
        compute_boxes_2d(world, camera, instance), compute_boxes_3d(world), graph, compose_captions(graph),
    )  # fmt: skip
