"""Six skies: their light, their haze, and their appearance."""

from dataclasses import dataclass

import numpy as np

from lumen.scenes.camera import Camera
from lumen.scenes.objects import to_linear
from lumen.scenes.ray_casting import Vector, dot
from lumen.scenes.texture import as_channels, cellular_noise, lerp, smoothstep, value_noise
from lumen.scenes.world import World

Colour = tuple[float, float, float]


@dataclass(frozen=True)
class Atmosphere:
    """Effect of a sky on the world. Colours are linear light.

    Attributes:
        zenith: Colour of the sky overhead.
        horizon: Colour of the sky at the horizon, and of the haze.
        sun: Directional light.
        ambient: Light from all directions.
        haze: Distance in metres over which 63 % of an object's light fades.
        clouds: Opacity of a cloud.
        cloud: Colour of a cloud.
        halo: Glow around the light.
        disc: Colour of the sun or moon; None hides it.
        snow: Snow cover, from 0 to 1.
    """

    zenith: Colour
    horizon: Colour
    sun: Colour
    ambient: Colour
    haze: float
    clouds: float = 0.0
    cloud: Colour = (0.0, 0.0, 0.0)
    halo: Colour = (0.0, 0.0, 0.0)
    disc: Colour | None = None
    snow: float = 0.0


ATMOSPHERES = {
    "clear": Atmosphere(
        zenith=to_linear((0.22, 0.47, 0.86)), horizon=to_linear((0.74, 0.86, 0.96)),
        sun=(0.82, 0.77, 0.66), ambient=(0.30, 0.35, 0.44), haze=160.0, clouds=0.75, cloud=(0.95, 0.95, 0.97),
    ),
    "overcast": Atmosphere(
        zenith=to_linear((0.56, 0.60, 0.66)), horizon=to_linear((0.78, 0.80, 0.82)),
        sun=(0.17, 0.17, 0.17), ambient=(0.56, 0.58, 0.61), haze=80.0, clouds=0.6, cloud=to_linear((0.87, 0.88, 0.89)),
    ),
    "sunset": Atmosphere(
        zenith=to_linear((0.34, 0.30, 0.58)), horizon=to_linear((1.00, 0.64, 0.36)), sun=(0.95, 0.58, 0.32),
        ambient=(0.49, 0.48, 0.54), haze=100.0, clouds=0.7, cloud=to_linear((0.96, 0.50, 0.46)),
        halo=(0.55, 0.22, 0.04), disc=(1.0, 0.93, 0.66),
    ),
    "night": Atmosphere(
        zenith=to_linear((0.05, 0.07, 0.22)), horizon=to_linear((0.25, 0.31, 0.52)),
        sun=(0.22, 0.26, 0.34), ambient=(0.29, 0.31, 0.39), haze=90.0, halo=(0.08, 0.09, 0.13), disc=(0.93, 0.92, 0.82),
    ),
    "fog": Atmosphere(
        zenith=to_linear((0.80, 0.82, 0.84)), horizon=to_linear((0.84, 0.85, 0.86)),
        sun=(0.10, 0.10, 0.10), ambient=(0.50, 0.51, 0.53), haze=21.0,
    ),
    "snow": Atmosphere(
        zenith=to_linear((0.66, 0.71, 0.79)), horizon=to_linear((0.88, 0.90, 0.93)), sun=(0.20, 0.20, 0.20),
        ambient=(0.52, 0.55, 0.60), haze=65.0, clouds=0.35, cloud=to_linear((0.93, 0.94, 0.96)), snow=1.0,
    ),
}  # fmt: skip


def disc_mask(cosine: np.ndarray, radius: float, softness: float) -> np.ndarray:
    """Return 1 inside a disc of `radius` radians around the light and 0 beyond `radius + softness`.

    Args:
        cosine: Cosine of the angle between each direction and the light.
    """
    outer, inner = np.cos(radius + softness), np.cos(radius)
    return smoothstep(np.clip((cosine - outer) / (inner - outer), 0, 1))


def cloud_cover(world: World, d: Vector) -> np.ndarray:
    """Return the opacity of the clouds in each direction: noise on a flat layer that thins out towards the horizon."""
    up = np.maximum(d[2], 0.03) + 0.1
    x, y = d[0] / up * 1.1 + world.seed % 61, d[1] / up * 1.1 + world.seed % 53
    thickness = 0.65 * value_noise(x, y) + 0.35 * value_noise(2.3 * x, 2.3 * y)
    return ATMOSPHERES[world.sky].clouds * np.clip((thickness - 0.45) * 4, 0, 1) * np.clip(d[2] * 8, 0, 1)


def star_brightness(world: World, d: Vector) -> np.ndarray:
    """Return the brightness of the stars: a soft dot in a random part of the cells of a lattice over the view."""
    distance, cell_value = cellular_noise(d[1] / d[0] * 12 + world.seed % 47, d[2] / d[0] * 12 + world.seed % 59)
    return np.clip(1.3 - distance / 0.016, 0, 1) * np.clip(cell_value * 3 - 1.7, 0, 0.9)


def shade_sky(world: World, d: Vector, stars: bool = True) -> np.ndarray:
    """Return the light (3, h, w) that arrives along directions `d` from above the horizon."""
    atmosphere = ATMOSPHERES[world.sky]
    length = np.sqrt(dot(d, d))
    d = tuple(x / length for x in d)
    rise = np.clip(d[2] / 0.55, 0, 1)
    light = lerp(as_channels(atmosphere.horizon), as_channels(atmosphere.zenith), rise * (2 - rise))
    if atmosphere.clouds:
        light = lerp(light, as_channels(atmosphere.cloud), cloud_cover(world, d))
    if stars and world.sky == "night":
        light = light + star_brightness(world, d)
    if atmosphere.disc:
        cosine = dot(d, world.light)
        light = light + as_channels(atmosphere.halo) * np.clip(cosine, 0, 1) ** 24
        light = lerp(light, as_channels(atmosphere.disc), disc_mask(cosine, 0.055, 0.015))
    return light


def add_snowfall(world: World, camera: Camera, light: np.ndarray) -> np.ndarray:
    """Return `light` (3, h, w) on the half-pixel grid behind a near and a far layer of snowflakes."""
    h, w = light.shape[1:]
    across = (np.arange(w)[None, :] / 2 - camera.u0) / camera.fx
    down = (np.arange(h)[:, None] / 2 - camera.v0) / camera.fy
    for count, radius in ((11, 0.009), (7, 0.0125)):
        # 64 keeps the lattice coordinates positive at any sensible width; the seed shifts the layer.
        distance, cell_value = cellular_noise(
            across * count + 64 + world.seed % 31, down * count + 64 + world.seed % 37
        )
        opacity = 0.85 * np.clip(1.5 - distance / (radius * count) ** 2, 0, 1) * (cell_value > 0.45)
        light = lerp(light, 0.97, opacity)
    return light
