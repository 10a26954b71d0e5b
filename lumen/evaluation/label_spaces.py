"""What published segmenters call the classes of a data set, and which of them they do not tell apart."""

from dataclasses import dataclass

# Classes of ADE20K by other names of published label lists: SegFormer and Mask2Former say "television receiver",
# OneFormer the others. Source: huggingface/label-files, ade20k-id2label.json; MaskFormer, register_ade20k_panoptic.py.
ALSO = {
    "windowpane": ("window",),
    "bathtub": ("tub",),
    "railing": ("rail",),
    "streetlight": ("street lamp",),
    "television": ("television receiver", "tv"),
    "airplane": ("plane",),
    "apparel": ("clothes",),
    "swimming pool": ("pool",),
    "waterfall": ("falls",),
    "ashcan": ("trash can",),
}

# How COCO's panoptic task made 53 classes of stuff of COCO-Stuff's 91; 36 are as they were, and so are the 80 things.
# Source: cocodataset.org/#panoptic-eval.
_MERGED = """
tree-merged: branch, tree, bush, leaves
fence-merged: cage, fence, railing
ceiling-merged: ceiling-tile, ceiling-other
sky-other-merged: clouds, sky-other, fog
cabinet-merged: cupboard, cabinet
table-merged: desk-stuff, table
floor-other-merged: floor-marble, floor-other, floor-tile
pavement-merged: floor-stone, pavement
mountain-merged: hill, mountain
grass-merged: moss, grass, straw
dirt-merged: mud, dirt
paper-merged: napkin, paper
food-other-merged: salad, vegetable, food-other
building-other-merged: skyscraper, building-other
rock-merged: stone, rock
wall-other-merged: wall-other, wall-concrete, wall-panel
rug-merged: mat, rug, carpet
"""
# Their pixels belong to no class. The last line: things that were named and never drawn.
_REMOVED = (
    "furniture-other, metal, plastic, solid-other, structural-other, waterdrops, textile-other, cloth, clothes, "
    "plant-other, wood, ground-other, "
    "street sign, hat, shoe, eye glasses, plate, mirror, window, desk, door, blender, hair brush"
)
PANOPTIC: dict[str, str | None] = dict.fromkeys(_REMOVED.split(", ")) | {
    member: merged
    for merged, members in (line.split(": ") for line in _MERGED.strip().splitlines())
    for member in members.split(", ")
}


@dataclass(frozen=True)
class Space:
    """The classes that a segmenter is judged in, and where labels belong in it: len(names) is no class."""

    names: tuple[str, ...]
    found: tuple[int, ...]  # of each label of the segmenter
    truth: tuple[int, ...]  # of each class of the data set
    merged: bool = False


def space(labels: dict[int, str], classes: tuple[str, ...]) -> Space | list[str]:
    """The data set's own classes, or COCO's panoptic ones where the segmenter has those.

    Returns:
        The space; or, where the segmenter knows neither, the classes of the data set that it lacks.
    """
    merged = [PANOPTIC.get(name, name) for name in classes]
    kept = tuple(dict.fromkeys(name for name in merged if name is not None))
    for names, belongs in ((classes, list(classes)), (kept, merged)):
        found = _found(labels, names)
        if not set(range(len(names))) - set(found):
            truth = tuple(len(names) if name is None else names.index(name) for name in belongs)
            return Space(names, found, truth, merged=names != classes)
    missing = set(range(len(classes))) - set(_found(labels, classes))
    return [classes[i] for i in sorted(missing)]


def _found(labels: dict[int, str], names: tuple[str, ...]) -> tuple[int, ...]:
    """For each label the place of its class among `names`: by the whole label, else by one of those between commas."""
    place = {also: i for i, name in enumerate(names) for also in ALSO.get(name, ())}
    place |= {each: i for i, name in enumerate(names) for each in _spellings(name)}
    known = {number: [place[each] for each in _spellings(label) if each in place] for number, label in labels.items()}
    return tuple(known[number][0] if known.get(number) else len(names) for number in range(max(labels) + 1))


def _spellings(name: str) -> list[str]:
    return [each.strip().lower() for each in (name, *name.split(","))]
