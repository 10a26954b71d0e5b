"""Label spaces: the classes in which the labels of a segmenter and those of a data set are compared."""

from dataclasses import dataclass

# Classes of ADE20K by other names of published label lists: SegFormer and Mask2Former say "television receiver",
# OneFormer the others. Source: huggingface/label-files, ade20k-id2label.json; MaskFormer, register_ade20k_panoptic.py.
SYNONYMS = {
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

# COCO's panoptic task has 53 classes of stuff for COCO-Stuff's 91: 36 are unchanged, as are the 80 things, and these
# 17 are unions. Source: cocodataset.org/#panoptic-eval.
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
# Pixels of these belong to no panoptic class. The last line: things that have a name but no annotation.
_REMOVED = (
    "furniture-other, metal, plastic, solid-other, structural-other, waterdrops, textile-other, cloth, clothes, "
    "plant-other, wood, ground-other, "
    "street sign, hat, shoe, eye glasses, plate, mirror, window, desk, door, blender, hair brush"
)
PANOPTIC_CLASS: dict[str, str | None] = dict.fromkeys(_REMOVED.split(", ")) | {
    member: merged
    for merged, members in (line.split(": ") for line in _MERGED.strip().splitlines())
    for member in members.split(", ")
}


@dataclass(frozen=True)
class LabelSpace:
    """Classes in which a segmenter is compared with a data set. The index len(names) stands for no class.

    Attributes:
        names: Name of each class.
        label_index: Index of the class of each label of the segmenter.
        class_index: Index of the class of each class of the data set.
        merged: Whether these are COCO's panoptic classes instead of the data set's own.
    """

    names: tuple[str, ...]
    label_index: tuple[int, ...]
    class_index: tuple[int, ...]
    merged: bool = False


def match_label_space(labels: dict[int, str], classes: tuple[str, ...]) -> LabelSpace | None:
    """Return the data set's own classes, or COCO's panoptic ones if the segmenter knows those; else None.

    Args:
        labels: Name of each label of the segmenter.
        classes: Classes of the data set.
    """
    panoptic = [PANOPTIC_CLASS.get(name, name) for name in classes]
    panoptic_names = tuple(dict.fromkeys(name for name in panoptic if name is not None))
    for names, class_names in ((classes, list(classes)), (panoptic_names, panoptic)):
        label_index = _label_index(labels, names)
        if not set(range(len(names))) - set(label_index):
            class_index = tuple(len(names) if name is None else names.index(name) for name in class_names)
            return LabelSpace(names, label_index, class_index, merged=names != classes)
    return None


def missing_classes(labels: dict[int, str], classes: tuple[str, ...]) -> list[str]:
    """Return the classes of the data set that no label of the segmenter names."""
    missing = set(range(len(classes))) - set(_label_index(labels, classes))
    return [classes[i] for i in sorted(missing)]


def _label_index(labels: dict[int, str], names: tuple[str, ...]) -> tuple[int, ...]:
    """Return for each label the index of its class, by its whole name or else by one of those between commas."""
    index = {synonym: i for i, name in enumerate(names) for synonym in SYNONYMS.get(name, ())}
    index |= {spelling: i for i, name in enumerate(names) for spelling in _spellings(name)}
    matches = {
        number: [index[spelling] for spelling in _spellings(label) if spelling in index]
        for number, label in labels.items()
    }
    return tuple(matches[number][0] if matches.get(number) else len(names) for number in range(max(labels) + 1))


def _spellings(name: str) -> list[str]:
    return [spelling.strip().lower() for spelling in (name, *name.split(","))]
