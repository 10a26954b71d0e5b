"""Offline world: small 3D scenes, rendered and labelled exactly from a seed, without downloads.

`render(seed, size)` returns an image with its semantic and instance maps, depth, disparity, camera, boxes, scene graph
and captions. A scene has one of four grounds (grass, sand, water, road) and one of six skies (clear, overcast, sunset,
night, fog, snow). On the ground stand one to four balls, boxes, pillars, trees, houses and cars in seven colours.
The renderer needs numpy only.
"""

from lumen.scenes.render import Scene, render
from lumen.scenes.world import CLASSES, split_seeds

__all__ = ["CLASSES", "Scene", "render", "split_seeds"]
