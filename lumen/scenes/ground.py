"""Appearance of the ground: colour, texture, and the shadows of objects."""

import numpy as np

from lumen.scenes.camera import Camera
from lumen.scenes.objects import SceneObject, to_linear
from lumen.scenes.ray_casting import INTERSECTIONS, Vector, crop
from lumen.scenes.sky import ATMOSPHERES
from lumen.scenes.texture import as_channels, lerp, value_noise
from lumen.scenes.world import World

GROUND_COLOURS = {
    "grass": (0.36, 0.58, 0.20),
    "sand": (0.88, 0.75, 0.50),
    "water": (0.06, 0.30, 0.42),
    "road": (0.36, 0.36, 0.385),
}
SKIES_WITH_SHADOWS = ("clear", "sunset", "night")


def bounding_rectangle(points: np.ndarray) -> np.ndarray:
    """Return the corners (4, 3) of the axis-aligned ground rectangle around `points` (n, 2), cut off at the camera."""
    (left, low), (right, high) = points.min(0), points.max(0)
    return np.array([(max(x, 0.8), y, 0.0) for x in (left, right) for y in (low, high)])


def shadow_mask(world: World, camera: Camera, ground: Vector, first_row: int) -> np.ndarray:
    """Return whether an object stands between the light and each point of the ground.

    Args:
        ground: Points on the ground.
        first_row: Row of the half-pixel grid at which the points begin.
    """
    mask = np.zeros(ground[1].shape, bool)
    corners = np.stack([solid.corners() for solid in world.solids])
    # Every corner of a solid's box casts its shadow away from the light.
    slope = world.light[0] / world.light[2], world.light[1] / world.light[2]
    shadow_corners = corners[..., :2] - corners[..., 2:] * slope
    rectangles = np.stack([bounding_rectangle(points) for points in shadow_corners])
    windows = camera.bounding_windows(rectangles, mask.shape, first_row)
    with np.errstate(all="ignore"):
        for solid, window in zip(world.solids, windows, strict=True):
            if mask[window].size:
                t, _ = INTERSECTIONS[solid.shape](crop(ground, window), world.light, solid)
                mask[window] |= t < np.inf
    return mask


def contact_shadow(obj: SceneObject, ground: Vector) -> np.ndarray:
    """Return the ambient occlusion below an object, from 0 to 1."""
    c, s = np.cos(obj.yaw), np.sin(obj.yaw)
    x, y = ground[0] - obj.position[0], ground[1] - obj.position[1]
    spread = 0.28 if obj.kind == "tree" else 0.62
    along, across = (c * x + s * y) / (spread * obj.dimensions[0]), (c * y - s * x) / (spread * obj.dimensions[1])
    return np.exp(-np.minimum(along * along + across * across, 40.0))


def ground_texture(world: World, x: np.ndarray, y: np.ndarray, fade: np.ndarray) -> np.ndarray:
    """Return the brightness of the ground around 1: coarse patches, and a fine grain scaled by `fade`."""
    dx, dy = x + world.seed % 41, y + world.seed % 43
    if world.ground == "sand":
        ripple = np.sin(3.2 * x + 0.8 * y + 4 * value_noise(0.5 * dx, 0.5 * dy))
        return 1 + fade * 0.07 * ripple + 0.12 * (value_noise(0.35 * dx, 0.35 * dy) - 0.5)
    patches, grain = value_noise(0.45 * dx, 0.45 * dy) - 0.5, value_noise(2.2 * dx, 2.2 * dy) - 0.5
    coarse, fine = {"grass": (0.45, 0.35), "road": (0.12, 0.14)}[world.ground]
    return 1 + coarse * patches + fade * fine * grain


def lane_markings(world: World, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the opacity of the road markings: a dashed line between two lanes and a solid line on either side."""
    c, s = np.cos(world.lane_yaw), np.sin(world.lane_yaw)
    ahead, aside = c * x + s * y, np.abs(c * y - s * x + 0.4)
    middle = np.clip((0.14 - aside) / 0.05, 0, 1) * np.clip(6 * (np.abs(ahead % 3.6 - 1.8) - 0.75), 0, 1)
    return np.maximum(middle, np.clip((0.14 - np.abs(aside - 3.0)) / 0.05, 0, 1))


def shade_water(
    world: World, x: np.ndarray, y: np.ndarray, steepness: np.ndarray, fade: np.ndarray, mirror: np.ndarray
) -> np.ndarray:
    """Return the light (3, h, w) of water with waves: its colour at steep angles, a reflection at grazing angles."""
    wave = value_noise(0.55 * x + world.seed % 41, 1.1 * y)
    wave = wave + 0.5 * value_noise(1.3 * x, 2.1 * y + world.seed % 43) - 0.75
    reflectance = np.clip(0.85 - 1.05 * steepness + 0.22 * fade * wave, 0.18, 0.85)
    atmosphere = ATMOSPHERES[world.sky]
    illumination = as_channels(np.array(atmosphere.ambient) + 0.6 * np.array(atmosphere.sun))
    deep = as_channels(to_linear(GROUND_COLOURS["water"])) * illumination * 1.5
    return lerp(deep * (1 + 0.5 * fade * wave), mirror * 0.82, reflectance)


def shade_ground(world: World, camera: Camera, below: Vector, mirror: np.ndarray | None) -> np.ndarray:
    """Return the light (3, h, w) of the ground along rays below the horizon.

    Args:
        below: Directions of the rays.
        mirror: Light that water reflects; None on other grounds.
    """
    atmosphere = ATMOSPHERES[world.sky]
    t = camera.height / -below[2]
    x, y = t * below[0], t * below[1]
    wide = np.broadcast_to(x, y.shape)
    fade = np.clip(1.2 - t / 14, 0, 1)
    first_row = round(4 * camera.v0) + 1 - len(t)
    has_shadows = world.sky in SKIES_WITH_SHADOWS
    shadow = shadow_mask(world, camera, (x, y, 0.0), first_row) if has_shadows else np.zeros(y.shape, bool)
    occlusion = np.max([contact_shadow(obj, (x, y)) for obj in world.objects], axis=0)
    if world.ground == "water":
        steepness = -below[2] / np.sqrt(below[0] ** 2 + below[1] ** 2 + below[2] ** 2)
        light = shade_water(world, wide, y, steepness, fade, mirror) * (1 - 0.22 * shadow) * (1 - 0.3 * occlusion)
    else:
        albedo = as_channels(to_linear(GROUND_COLOURS[world.ground])) * ground_texture(world, wide, y, fade)
        if world.ground == "road":
            albedo = lerp(albedo, 0.75, 0.85 * lane_markings(world, wide, y) * np.clip(2 - t / 14, 0, 1))
        albedo = lerp(albedo, 0.8, 0.62 * atmosphere.snow)
        direct = as_channels(atmosphere.sun) * (max(world.light[2], 0.35) * (1 - shadow))
        light = albedo * (direct + as_channels(atmosphere.ambient) * (1 - 0.55 * occlusion))
    return lerp(light, as_channels(atmosphere.horizon), 1 - np.exp(-t / atmosphere.haze))
