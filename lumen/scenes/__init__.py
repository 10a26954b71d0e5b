"""The offline world: small 3D scenes, drawn and labelled exactly from a seed, with nothing to download.

`render(seed, size)` gives an image with its semantic and instance maps, depth, disparity, camera, boxes, scene graph
and captions. A ground (grass, sand, water, road) lies under a sky (clear, overcast, sunset, night, fog, snow), with
one to four balls, boxes, pillars, trees, houses and cars in seven colours. It needs numpy only.
"""

from lumen.scenes.render import Scene, render
from lumen.scenes.world import CLASSES, seeds

__all__ = ["CLASSES", "Scene", "render", "seeds"]
