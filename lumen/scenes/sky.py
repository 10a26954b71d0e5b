"""The six skies: their light, their haze, and what is seen when looking up."""

from dataclasses import dataclass

import numpy as np

from lumen.scenes.camera import Camera
from lumen.scenes.objects import linear
from lumen.scenes.ray_casting import Vector, dot
from lumen.scenes.texture import blend, cells, column, noise, smooth
from lumen.scenes.world import World

Colour = tuple[float, float, float]


@dataclass(frozen=True)
class Mood:
    """What a sky does to the world. Colours are linear light; `haze` is the distance in metres over which 63 % fades.

    `sun` is the light from one direction and `ambient` that from everywhere; `clouds` is how much a cloud covers and
    `halo` the shine around the light; `snow` is how white the world has become.
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


MOODS = {
    "clear": Mood(
        zenith=linear((0.22, 0.47, 0.86)), horizon=linear((0.74, 0.86, 0.96)),
        sun=(0.82, 0.77, 0.66), ambient=(0.30, 0.35, 0.44), haze=160.0, clouds=0.75, cloud=(0.95, 0.95, 0.97),
    ),
    "overcast": Mood(
        zenith=linear((0.56, 0.60, 0.66)), horizon=linear((0.78, 0.80, 0.82)),
        sun=(0.17, 0.17, 0.17), ambient=(0.56, 0.58, 0.61), haze=80.0, clouds=0.6, cloud=linear((0.87, 0.88, 0.89)),
    ),
    "sunset": Mood(
        zenith=linear((0.34, 0.30, 0.58)), horizon=linear((1.00, 0.64, 0.36)),
        sun=(0.95, 0.58, 0.32), ambient=(0.49, 0.48, 0.54), haze=100.0, clouds=0.7, cloud=linear((0.96, 0.50, 0.46)),
        halo=(0.55, 0.22, 0.04), disc=(1.0, 0.93, 0.66),
    ),
    "night": Mood(
        zenith=linear((0.05, 0.07, 0.22)), horizon=linear((0.25, 0.31, 0.52)),
        sun=(0.22, 0.26, 0.34), ambient=(0.29, 0.31, 0.39), haze=90.0, halo=(0.08, 0.09, 0.13), disc=(0.93, 0.92, 0.82),
    ),
    "fog": Mood(
        zenith=linear((0.80, 0.82, 0.84)), horizon=linear((0.84, 0.85, 0.86)),
        sun=(0.10, 0.10, 0.10), ambient=(0.50, 0.51, 0.53), haze=21.0,
    ),
    "snow": Mood(
        zenith=linear((0.66, 0.71, 0.79)), horizon=linear((0.88, 0.90, 0.93)),
        sun=(0.20, 0.20, 0.20), ambient=(0.52, 0.55, 0.60), haze=65.0, clouds=0.35, cloud=linear((0.93, 0.94, 0.96)),
        snow=1.0,
    ),
}  # fmt: skip


def disc(cosine: np.ndarray, radius: float, soft: float) -> np.ndarray:
    """1 inside a disc of `radius` radians around the light, 0 beyond `radius + soft`, by the cosine of the angle."""
    outer, inner = np.cos(radius + soft), np.cos(radius)
    return smooth(np.clip((cosine - outer) / (inner - outer), 0, 1))


def clouds(world: World, d: Vector) -> np.ndarray:
    """How much cloud lies in each direction: noise on a flat layer far above, thinning out towards the horizon."""
    up = np.maximum(d[2], 0.03) + 0.1
    x, y = d[0] / up * 1.1 + world.seed % 61, d[1] / up * 1.1 + world.seed % 53
    thick = 0.65 * noise(x, y) + 0.35 * noise(2.3 * x, 2.3 * y)
    return MOODS[world.sky].clouds * np.clip((thick - 0.45) * 4, 0, 1) * np.clip(d[2] * 8, 0, 1)


def stars(world: World, d: Vector) -> np.ndarray:
    """Brightness of the stars: in some cells of a lattice over the view one soft dot, in the others none."""
    near, chance = cells(d[1] / d[0] * 12 + world.seed % 47, d[2] / d[0] * 12 + world.seed % 59)
    return np.clip(1.3 - near / 0.016, 0, 1) * np.clip(chance * 3 - 1.7, 0, 0.9)


def sky_light(world: World, d: Vector, starry: bool = True) -> np.ndarray:
    """Light (3, h, w) arriving along directions `d` from above the horizon."""
    mood = MOODS[world.sky]
    length = np.sqrt(dot(d, d))
    d = tuple(x / length for x in d)
    rise = np.clip(d[2] / 0.55, 0, 1)
    light = blend(column(mood.horizon), column(mood.zenith), rise * (2 - rise))
    if mood.clouds:
        light = blend(light, column(mood.cloud), clouds(world, d))
    if starry and world.sky == "night":
        light = light + stars(world, d)
    if mood.disc:
        cosine = dot(d, world.light)
        light = light + column(mood.halo) * np.clip(cosine, 0, 1) ** 24
        light = blend(light, column(mood.disc), disc(cosine, 0.055, 0.015))
    return light


def snowfall(world: World, camera: Camera, light: np.ndarray) -> np.ndarray:
    """`light` (3, h, w) on the half-pixel grid behind two curtains of flakes, one near and one far."""
    h, w = light.shape[1:]
    across, down = (
        (np.arange(w)[None, :] / 2 - camera.u0) / camera.fx,
        (np.arange(h)[:, None] / 2 - camera.v0) / camera.fy,
    )
    for count, radius in ((11, 0.009), (7, 0.0125)):
        # 64 keeps the lattice coordinates positive at any sensible width; the seed moves the curtain.
        near, chance = cells(across * count + 64 + world.seed % 31, down * count + 64 + world.seed % 37)
        light = blend(light, 0.97, 0.85 * np.clip(1.5 - near / (radius * count) ** 2, 0, 1) * (chance > 0.45))
    return light
